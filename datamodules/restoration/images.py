"""Images of one split, held in memory as they are stored, and patches cut out of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["training", "validation", "test"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True)
class Images:
    """Images of one split, which may differ in size.

    Args:
        names: names of the images, `[N]`, without suffix.
        clean: ground truth, N arrays `[C, H, W]`; None where there is none.
        noisy: noisy measurements of the same sizes, if they were taken by a camera or stored, or images that are
            smaller by `scale`; None for images that get their noise here.
        data_range: the stored value that stands for 1; 1 for floating-point numbers.
        scale: pixels of a clean image for one of the noisy one, along each axis.

    Raises:
        ValueError: if there is no image, or a clean image and its noisy one do not fit in size, naming it.
    """

    names: Sequence[str]
    clean: Sequence[Pixels] | None
    noisy: Sequence[Pixels] | None = None
    data_range: int = 255
    scale: int = 1

    def __post_init__(self) -> None:
        if not self.stored:
            raise ValueError("a set of images is empty")
        for name, clean, noisy in zip(self.names, self.clean or self.stored, self.noisy or self.stored, strict=True):
            scale = 1 if self.noisy is None or self.clean is None else self.scale
            if clean.shape != (noisy.shape[0], noisy.shape[1] * scale, noisy.shape[2] * scale):
                raise ValueError(
                    f"{name}: the clean image has the shape {list(clean.shape)}, the noisy one {list(noisy.shape)}"
                    + ("" if scale == 1 else f"; its sides must be {scale} times as long")
                )

    @property
    def stored(self) -> Sequence[Pixels]:
        """The images that are there for certain: the clean ones, or the noisy ones without them."""
        return self.clean if self.clean is not None else self.noisy or []


class PairSet(ABC):
    """A data set of images to restore: a plain object that reads its splits, and knows nothing of batches."""

    channels: int
    """Channels of an image: 1 of grey, 3 of colour, 4 of packed raw images."""
    scale: int = 1
    """Pixels of a clean image for one of its noisy one, along each axis."""

    @abstractmethod
    def images(self, split: Split) -> Images:
        """Read a split; a set without splits gives all its images for any.

        Raises:
            FileNotFoundError: if the images are missing, saying what was expected where.
            ValueError: if a file is damaged or the set has no such split.
        """


class PatchStore:
    """Images of any sizes in one block of memory, out of which squares are cut, all of a batch at once.

    Args:
        images: N arrays `[C, H, W]` of one type.
    """

    def __init__(self, images: Sequence[NDArray]) -> None:
        self.channels = images[0].shape[0]
        self.values = torch.from_numpy(np.concatenate([image.reshape(-1) for image in images]))
        self.height = torch.tensor([image.shape[1] for image in images])
        self.width = torch.tensor([image.shape[2] for image in images])
        sizes = torch.tensor([image.size for image in images])
        self.start = sizes.cumsum(0) - sizes

    def image(self, position: int) -> Tensor:
        """One whole image, `[C, H, W]`, without a copy."""
        height, width, start = (int(each[position]) for each in (self.height, self.width, self.start))
        return self.values[start : start + self.channels * height * width].view(self.channels, height, width)

    def to(self, device: torch.device) -> Self:
        """Move the images to a device, and return the store itself."""
        if self.values.device != device:
            for name in ("values", "height", "width", "start"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def cut(self, image: Tensor, uniform: Tensor, size: int, grid: int = 1) -> Tensor:
        """Cut a square out of each of some images.

        Args:
            image: `[B]`, int64: positions of the images.
            uniform: `[B, 2]` in [0, 1): row and column of each square, uniform over all places.
            size: side of a square, in pixels, at most that of the images.
            grid: rows and columns where squares begin are multiples of it.

        Returns:
            `[B, C, size, size]`, of the images' type.
        """
        height, width = self.height[image], self.width[image]
        top = (uniform[:, 0] * ((height - size) // grid + 1)).long() * grid
        left = (uniform[:, 1] * ((width - size) // grid + 1)).long() * grid
        plane = torch.arange(self.channels, device=image.device)[:, None] * height[:, None, None]
        row = plane + top[:, None, None] + torch.arange(size, device=image.device)
        first = self.start[image, None, None] + row * width[:, None, None] + left[:, None, None]
        # Every run of `size` pixels as a row of one overlapping view: a square is then a selection of rows.
        runs = self.values.as_strided((self.values.numel() - size + 1, size), (1, 1))
        return runs.index_select(0, first.flatten()).view(len(image), self.channels, size, size)
