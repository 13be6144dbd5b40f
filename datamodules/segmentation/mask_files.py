"""Images with masks in files, decoded when they are asked for, each of its own size."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.files.image_files import UnreadableImage
from datamodules.loading.seeded_batches import check_at_least
from datamodules.segmentation.labelled_masks import refuse_unknown_categories

FILL = (124, 116, 104)
"""What surrounds an image that does not fill its place: the mean colour of ImageNet, which normalises to 0."""


class Placed(NamedTuple):
    """A square cut out of a scaled image, which lies in it or around it."""

    height: int
    """Of the scaled image, in pixels; likewise `width`."""
    width: int
    top: int
    """Where the square begins in the scaled image; below 0 where it reaches beyond. Likewise `left`."""
    left: int


class ScaledCrop:
    """Scales an image at random and cuts out a square at a random place, or places the whole in the square at random.

    Args:
        size: side of the square, in pixels.
        min_scale: least factor of lengths.
        max_scale: greatest factor of lengths.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_uniform = 3

    def __init__(self, size: int, min_scale: float, max_scale: float) -> None:
        check_at_least(1, crop_size=size)
        if not 0 < min_scale <= max_scale:
            raise ValueError(
                f"min_scale and max_scale must be 0 < min_scale <= max_scale, got {min_scale} and {max_scale}"
            )
        self.size = size
        self.min_scale = min_scale
        self.max_scale = max_scale

    def place(self, height: int, width: int, uniform: Sequence[float]) -> Placed:
        """Scale, row and column of an image, by three numbers in [0, 1)."""
        scale = self.min_scale + uniform[0] * (self.max_scale - self.min_scale)
        scaled = [max(round(side * scale), 1) for side in (height, width)]
        begin = [
            int(number * (abs(side - self.size) + 1)) * (1 if side > self.size else -1)
            for side, number in zip(scaled, uniform[1:], strict=True)
        ]
        return Placed(*scaled, *begin)

    def image(self, image: Image.Image, placed: Placed) -> np.ndarray:
        """The square of an image, `[size, size, 3]`, uint8; cubic, with antialiasing."""
        square = np.full((self.size, self.size, 3), FILL, dtype=np.uint8)
        rows, columns = self._overlap(placed.top, placed.height), self._overlap(placed.left, placed.width)
        across, down = image.width / placed.width, image.height / placed.height
        box = (
            max(placed.left, 0) * across,
            max(placed.top, 0) * down,
            min((placed.left + columns.stop) * across, image.width),
            min((placed.top + rows.stop) * down, image.height),
        )
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        square[rows, columns] = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box))
        return square

    def mask(self, mask: Tensor, placed: Placed) -> Tensor:
        """The same square of a mask `[H, W]`, each pixel that of the nearest in the source; 255 around it."""
        square = torch.full((self.size, self.size), IGNORED, dtype=torch.uint8)
        rows, columns = self._overlap(placed.top, placed.height), self._overlap(placed.left, placed.width)
        row = (torch.arange(rows.start, rows.stop) + placed.top + 0.5) * (mask.shape[0] / placed.height)
        column = (torch.arange(columns.start, columns.stop) + placed.left + 0.5) * (mask.shape[1] / placed.width)
        row, column = row.long().clamp(max=mask.shape[0] - 1), column.long().clamp(max=mask.shape[1] - 1)
        square[rows, columns] = mask[row[:, None], column]
        return square

    def _overlap(self, begin: int, length: int) -> slice:
        """Where in the square the scaled image lies, along one side."""
        return slice(max(-begin, 0), min(length - begin, self.size))


class MaskFiles:
    """A `MaskSource` of files: one image and one mask for each name.

    Args:
        images: folder of the images, `<name>.jpg`.
        given: folder of the masks that are given, `<name>.png`: one channel or a palette, with the category for value.
        names: `[N]`.
        num_classes: number of categories, K.
        clean: folders that may hold the true masks; the first that has one counts. Where none has, all is 255. None:
            the given masks are the true ones.
        crop: what a training image is cut to; None leaves all whole.
        noise: what makes the given masks wrong when they are read; they are the true ones then.

    Raises:
        FileNotFoundError: if an image or a given mask is missing, naming the first.
        UnreadableImage: if a given mask is damaged, naming it.
    """

    brightest = 255.0

    def __init__(
        self,
        images: Path,
        given: Path,
        names: Sequence[str],
        num_classes: int,
        clean: Sequence[Path] | None = None,
        crop: ScaledCrop | None = None,
        noise: MaskNoise | None = None,
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
        # One block of memory, which loader processes share.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.num_classes = num_classes
        self.crop = crop
        self.num_uniform = 0 if crop is None else crop.num_uniform
        self.noise = noise
        with ThreadPoolExecutor(8) as pool:
            self.size = torch.tensor(list(pool.map(_mask_size, (given / f"{name}.png" for name in names))))

    def name(self, sample: int) -> str:
        return os.fsdecode(self._names[sample])

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
                    raise UnreadableImage(f"{path} is {list(mask.shape)}, and the mask that is given {size}")
                return mask
        return torch.full(size, IGNORED, dtype=torch.uint8)

    def _read(self, path: Path) -> Tensor:
        mask = read_mask(path)
        try:
            refuse_unknown_categories(mask, self.num_classes, str(path))
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return mask

    def cut(self, index: Tensor, masks: dict[str, Any], uniform: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        sizes = self.size[index].tolist()
        if self.crop is not None and uniform is not None:
            crop, numbers = self.crop, uniform.tolist()
            places = [crop.place(height, width, own) for (height, width), own in zip(sizes, numbers, strict=True)]
            samples = zip(index.tolist(), places, strict=True)
            image = torch.stack([_channels_first(crop.image(self._image(i), place)) for i, place in samples])
            return image, {
                key: torch.stack([crop.mask(mask, place) for mask, place in zip(whole, places, strict=True)])
                for key, whole in masks.items()
            }
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
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except Exception as error:  # decoders raise almost anything for a damaged file
            raise UnreadableImage(f"{path} cannot be read as an image ({error}); replace or remove it") from error
        if rgb.size != (width, height):
            raise UnreadableImage(
                f"{path} is {[rgb.height, rgb.width]} (height, width), and its mask {[height, width]}"
            )
        return rgb


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def read_mask(path: Path) -> Tensor:
    """A mask `[H, W]`, uint8, from an image of one channel or of a palette, whose numbers are the categories.

    Raises:
        UnreadableImage: if it is damaged or holds colours, naming the file.
    """
    try:
        with Image.open(path) as image:
            mask = np.array(image)
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise UnreadableImage(f"{path} cannot be read as a mask ({error}); replace it") from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UnreadableImage(
            f"{path} is no mask: expected one channel of 8 bits, or a palette, with the category of each pixel, got "
            f"{mask.dtype} of shape {list(mask.shape)}"
        )
    return torch.from_numpy(mask)


def _mask_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise UnreadableImage(f"{path} cannot be read as a mask ({error}); replace it") from error
