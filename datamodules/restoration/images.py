"""Interface of datasets for image restoration, wrappers for such datasets, and cropping of random patches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageSet

Split = Literal["training", "validation", "test"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True)
class PatchSampling:
    """How training patches are cut from images.

    Args:
        size: height and width of a training patch, in pixels.
        per_image: number of patches per training image and epoch.
        augmentation: whether to randomly flip and transpose training patches. The 8 possible orientations are equally
            probable.
    """

    size: int = 40
    per_image: int = 1
    augmentation: bool = True

    def __post_init__(self) -> None:
        at_least(1, **{"patches.size": self.size, "patches.per_image": self.per_image})


@dataclass(frozen=True)
class Images:
    """Images of one split. The images may have different sizes.

    Args:
        names: image names without suffix, `[N]`.
        clean: clean images, N arrays `[C, H, W]`. None if there is no ground truth.
        noisy: noisy images, which have the size of the clean images divided by `scale`. None if synthetic noise is
            added later.
        data_range: stored value of a white pixel, which is 1 for floating-point images.
        scale: number of clean pixels per noisy pixel, along each axis.
        rendering: white-balance gains and colour matrices of raw images, N arrays `[4, 3]`, see
            `datamodules.files.bayer.RawImage`. None if unknown.
    """

    names: Sequence[str]
    clean: Sequence[Pixels] | None
    noisy: Sequence[Pixels] | None = None
    data_range: float = 255
    scale: int = 1
    rendering: Sequence[NDArray[np.float32]] | None = None

    def __post_init__(self) -> None:
        if not self.stored:
            raise ValueError("a dataset has no images")
        for name, clean, noisy in zip(self.names, self.clean or self.stored, self.noisy or self.stored, strict=True):
            scale = 1 if self.noisy is None or self.clean is None else self.scale
            if clean.shape != (noisy.shape[0], noisy.shape[1] * scale, noisy.shape[2] * scale):
                raise ValueError(
                    f"{name}: the clean image has the shape {list(clean.shape)}, but the noisy image "
                    f"has {list(noisy.shape)}"
                    + ("" if scale == 1 else f"; the clean sides must be {scale} times as long")
                )

    @property
    def stored(self) -> Sequence[Pixels]:
        """The clean images, or the noisy images if there are no clean images."""
        return self.clean if self.clean is not None else self.noisy or []


class PairSet(ABC):
    """Dataset for image restoration. It reads its splits, and its DataModule decides which images form a batch."""

    channels: int
    """Number of channels: 1 for grey, 3 for colour, 4 for packed Bayer images, 9 for packed X-Trans images."""
    scale: int = 1
    """Number of clean pixels per noisy pixel, along each axis."""

    @abstractmethod
    def images(self, split: Split) -> Images:
        """Read the images of a split. A dataset without splits returns all its images for every split.

        Raises:
            FileNotFoundError: if the images are missing. The message names the expected path.
            ValueError: if a file is damaged, or if the dataset does not have this split.
        """


class PatchStore:
    """Images of different sizes in one block of memory. All square patches of a batch are cropped in one operation.

    Args:
        images: N arrays `[C, H, W]` of one dtype.
    """

    def __init__(self, images: Sequence[NDArray]) -> None:
        self.channels = images[0].shape[0]
        self.values = torch.from_numpy(np.concatenate([image.reshape(-1) for image in images]))
        self.height = torch.tensor([image.shape[1] for image in images])
        self.width = torch.tensor([image.shape[2] for image in images])
        sizes = torch.tensor([image.size for image in images])
        self.start = sizes.cumsum(0) - sizes

    def image(self, position: int) -> Tensor:
        """Return a whole image, `[C, H, W]`, without copying it."""
        height, width, start = (int(each[position]) for each in (self.height, self.width, self.start))
        return self.values[start : start + self.channels * height * width].view(self.channels, height, width)

    def to(self, device: torch.device) -> Self:
        """Move the images to a device, and return this object."""
        if self.values.device != device:
            for name in ("values", "height", "width", "start"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def crop(self, image: Tensor, uniform: Tensor, size: int, grid: int = 1) -> Tensor:
        """Crop one square from each of the selected images.

        Args:
            image: positions of the images, `[B]`, int64.
            uniform: uniform numbers in [0, 1), `[B, 2]`, that determine the row and the column of each square.
            size: height and width of a square, in pixels. No image may be smaller than this size.
            grid: step of the positions: a square starts at a row and a column that are multiples of `grid`.

        Returns:
            Square patches `[B, C, size, size]`, with the dtype of the images.
        """
        height, width = self.height[image], self.width[image]
        top = (uniform[:, 0] * ((height - size) // grid + 1)).long() * grid
        left = (uniform[:, 1] * ((width - size) // grid + 1)).long() * grid
        plane = torch.arange(self.channels, device=image.device)[:, None] * height[:, None, None]
        row = plane + top[:, None, None] + torch.arange(size, device=image.device)
        first = self.start[image, None, None] + row * width[:, None, None] + left[:, None, None]
        # Row i of this overlapping view holds the `size` pixels that start at pixel i. A square consists of some rows.
        runs = self.values.as_strided((self.values.numel() - size + 1, size), (1, 1))
        return runs.index_select(0, first.flatten()).view(len(image), self.channels, size, size)


class Together(PairSet):
    """Concatenation of datasets, such as DIV2K and BSD400 for training.

    Args:
        sets: datasets with the same number of channels. Either all datasets must have noisy images, or none of them.
    """

    def __init__(self, sets: list[PairSet]) -> None:
        if len(channels := {one.channels for one in sets}) != 1:
            raise ValueError(f"Together needs datasets with the same number of channels, got {sorted(channels)}")
        if len(scales := {one.scale for one in sets}) != 1:
            raise ValueError(f"Together needs datasets with the same downsampling factor, got {sorted(scales)}")
        self.sets = sets
        (self.channels,) = channels
        (self.scale,) = scales

    def images(self, split: Split) -> Images:
        parts = [one.images(split) for one in self.sets]
        names = [name for part in parts for name in part.names]
        if len(data_range := {part.data_range for part in parts}) > 1:
            raise ValueError(
                f"data_range must be equal for all datasets, got {' and '.join(map(str, sorted(data_range)))}"
            )

        def joined(kind: str) -> list[np.ndarray] | None:
            lists = [getattr(part, kind) for part in parts]
            return None if None in lists else [image for one in lists for image in one]

        clean, noisy = joined("clean"), joined("noisy")
        if clean is None and noisy is None:
            raise ValueError("some datasets have only clean images, and others only noisy images")
        if noisy is None and any(part.noisy is not None for part in parts):
            raise ValueError("some datasets have noisy images, and others have none")
        return Images(names, clean, noisy, data_range.pop(), self.scale)


class ItsTestImages(PairSet):
    """Wrapper that returns a dataset's test images for every split, for methods that train on the noisy test images.

    Args:
        images: dataset to wrap.
    """

    def __init__(self, images: PairSet) -> None:
        self.of = images
        self.channels = images.channels
        self.scale = images.scale

    def images(self, split: Split) -> Images:
        return self.of.images("test")


class Crops(PairSet):
    """Wrapper that selects evenly spaced images of a dataset and crops their centres. It is for slow methods.

    Args:
        images: dataset to wrap.
        crop_size: height and width of the square crops, in pixels.
        count: number of selected images.
    """

    def __init__(self, images: PairSet, crop_size: int, count: int) -> None:
        at_least(1, crop_size=crop_size, count=count)
        self.of = images
        self.channels = images.channels
        self.crop_size = crop_size
        self.count = count

    def images(self, split: Split) -> Images:
        images = self.of.images(split)
        if len(images.names) < self.count:
            raise ValueError(f"{type(self.of).__name__} has {len(images.names)} images, but count is {self.count}")
        places = [number * len(images.names) // self.count for number in range(self.count)]

        def centres(of: Sequence[Pixels]) -> list[Pixels]:
            return [self._centre(images.names[place], of[place]) for place in places]

        return Images(
            [images.names[place] for place in places],
            None if images.clean is None else centres(images.clean),
            None if images.noisy is None else centres(images.noisy),
            images.data_range,
        )

    def _centre(self, name: str, image: Pixels) -> Pixels:
        top, left = ((side - self.crop_size) // 2 for side in image.shape[1:])
        if min(top, left) < 0:
            height, width = image.shape[1:]
            raise ValueError(f"{name} has {height} x {width} pixels, less than crop_size {self.crop_size}")
        cut: Pixels = image[:, top : top + self.crop_size, left : left + self.crop_size]
        return cut.copy()


class ClassifiedImages(PairSet):
    """Images of a classification dataset, without labels. The test images are also used for validation.

    Args:
        images: classification dataset, such as `Digits` or `CIFAR10`. It is read into memory.
    """

    def __init__(self, images: ImageSet) -> None:
        self.source = images
        self.channels = images.image_shape[0]

    def images(self, split: Split) -> Images:
        self.source.fetch_missing()
        read = self.source.training() if split == "training" else self.source.test()
        rows = torch.arange(len(read.label))
        stored = [image.numpy() for part in rows.split(1000) for image in read.fetch(part, None)]
        return Images([f"{row:06d}" for row in rows.tolist()], stored, data_range=read.data_range)
