"""Image files and mask files of different sizes. The files are decoded on access."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.augmentation.masks import FILL, MaskAugmentation
from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.files.image_files import UnreadableImage, opened_image
from datamodules.segmentation.mask_sets import MaskSource, refuse_unknown_categories


class MaskFiles(MaskSource):
    """Images and masks in files that are matched by name.

    Args:
        images: folder of images `<name>.jpg`.
        given: folder of the masks `<name>.png` that are used as labels. They have one channel or a palette, and their
            values are class indices.
        names: names of the images without suffix, `[N]`.
        num_classes: number of classes, K.
        clean: folders that are searched, in this order, for the true mask of an image. If no folder contains the mask
            of an image, all pixels of its true mask are 255. None means that the masks in `given` are the true masks.
    """

    def __init__(
        self,
        images: Path,
        given: Path,
        names: Sequence[str],
        num_classes: int,
        clean: Sequence[Path] | None = None,
    ) -> None:
        for folder, suffix, what in ((images, ".jpg", "image"), (given, ".png", "mask")):
            there = set(os.listdir(folder)) if folder.is_dir() else set()
            missing = [name for name in names if name + suffix not in there]
            if missing:
                raise FileNotFoundError(
                    f"{folder / (missing[0] + suffix)} does not exist ({len(missing)} of {len(names)} {what} files are "
                    f"missing)"
                )
        self.images = images
        self.given = given
        self.clean = clean
        # The sizes are in one block of memory, which is shared with DataLoader workers.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.num_classes = num_classes
        self.noise: MaskNoise | None = None
        with ThreadPoolExecutor(8) as pool:
            self.size = torch.tensor(list(pool.map(_mask_size, (given / f"{name}.png" for name in names))))

    @property
    def names(self) -> list[str]:  # type: ignore[override]
        return [os.fsdecode(name) for name in self._names]

    def name(self, sample: int) -> str:
        return os.fsdecode(self._names[sample])

    def make_wrong(self, noise: MaskNoise, num_classes: int) -> None:
        if self.clean is not None:
            raise ValueError("mask_noise corrupts true masks, but the masks are already noisy: leave mask_noise out")
        self.noise = noise

    def masks(self, index: Tensor) -> tuple[list[Tensor], list[Tensor] | None]:
        samples = index.tolist()
        given = [self._read(self.given / f"{self.name(sample)}.png") for sample in samples]
        if self.noise is not None:
            noisy = [
                self.noise.apply(mask[None], self.num_classes, index[position, None])[0]
                for position, mask in enumerate(given)
            ]
            return noisy, given
        return given, None if self.clean is None else [self._clean_mask(sample) for sample in samples]

    def _clean_mask(self, sample: int) -> Tensor:
        assert self.clean is not None
        size = self.size[sample].tolist()
        for folder in self.clean:
            if (path := folder / f"{self.name(sample)}.png").is_file():
                mask = self._read(path)
                if list(mask.shape) != size:
                    raise UnreadableImage(f"{path} has the size {list(mask.shape)}, but the label mask has {size}")
                return mask
        return torch.full(size, IGNORED, dtype=torch.uint8)

    def _read(self, path: Path) -> Tensor:
        mask = read_mask(path)
        try:
            refuse_unknown_categories(mask, self.num_classes, str(path))
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return mask

    def crop_masks(
        self, index: Tensor, masks: dict[str, Any], augmentation: MaskAugmentation, uniform: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Read images and masks as `whole` does, and crop them. `uniform` `[B, 3]` determines the crops."""
        drawn = zip(self.size[index].tolist(), uniform.tolist(), strict=True)
        places = [augmentation.place(height, width, own) for (height, width), own in drawn]
        samples = zip(index.tolist(), places, strict=True)
        image = torch.stack([_channels_first(augmentation.image(self._image(i), place)) for i, place in samples])
        return image, {
            key: torch.stack([augmentation.mask(mask, place) for mask, place in zip(whole, places, strict=True)])
            for key, whole in masks.items()
        }

    def whole(self, index: Tensor, masks: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        sizes = self.size[index].tolist()
        shape = [max(side) for side in zip(*sizes, strict=True)]
        image = torch.tensor(FILL, dtype=torch.uint8).view(1, 3, 1, 1).repeat(len(index), 1, *shape)
        labels = {key: torch.full((len(index), *shape), IGNORED, dtype=torch.uint8) for key in masks}
        for position, (sample, (height, width)) in enumerate(zip(index.tolist(), sizes, strict=True)):
            image[position, :, :height, :width] = _channels_first(np.array(self._image(sample)))
            for key, whole in masks.items():
                labels[key][position, :height, :width] = whole[position]
        return image, labels

    def _image(self, sample: int) -> Image.Image:
        path = self.images / f"{self.name(sample)}.jpg"
        height, width = self.size[sample].tolist()
        with opened_image(path) as image:
            rgb = image.convert("RGB")
        if rgb.size != (width, height):
            raise UnreadableImage(
                f"{path} is {[rgb.height, rgb.width]} (height, width), but its mask is {[height, width]}"
            )
        return rgb


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def read_mask(path: Path) -> Tensor:
    """Read a uint8 mask `[H, W]` from a one-channel or palette image whose values are class indices."""
    with opened_image(path, "a mask") as image:
        mask = np.array(image)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UnreadableImage(
            f"{path} is not a mask: expected one channel of 8 bits, or a palette, with the class of each pixel, got "
            f"{mask.dtype} of shape {list(mask.shape)}"
        )
    return torch.from_numpy(mask)


def _mask_size(path: Path) -> tuple[int, int]:
    """Read the height and width of an image from its file header."""
    with opened_image(path, "a mask") as image:
        return image.height, image.width
