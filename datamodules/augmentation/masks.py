"""Random scaling, cropping, colour jitter and horizontal flips of photographs and their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.augmentation.colours import jitter_colours
from datamodules.batches import IGNORED
from datamodules.randomness.counter import sample_uniform

FILL = (124, 116, 104)
"""Padding colour: the mean colour of ImageNet, which becomes 0 when images are normalised."""


class Placed(NamedTuple):
    """A square crop of a scaled image.

    The square may extend beyond the image.
    """

    height: int
    """Height of the scaled image, in pixels."""
    width: int
    """Width of the scaled image, in pixels."""
    top: int
    """First row of the square in the scaled image. It is negative if the square extends beyond the image."""
    left: int
    """First column of the square in the scaled image. It is negative if the square extends beyond the image."""


@dataclass(frozen=True)
class MaskAugmentation:
    """Randomly scale images, crop or pad them to a square, jitter colours, and flip horizontally.

    The padding has the mean colour of ImageNet, and the loss ignores padded pixels. The augmentation follows the code
    of ADELE for PASCAL VOC, with four differences. Images are resized with antialiasing. Masks are sampled at the
    nearest pixel centre. Colour changes are not rounded to integers. The padding is also jittered.

    Args:
        crop_size: side of a training image, in pixels.
        min_scale: smallest scale factor.
        max_scale: largest scale factor.
        hue: maximal hue shift, in degrees. The authors use 20 degrees.
        saturation: maximal change of saturation, in [0, 1]. The authors use 10/255.
        value: maximal change of value, in [0, 1]. The authors use 10/255.
        flip: whether to flip half of the images horizontally.
    """

    crop_size: int = 448
    min_scale: float = 0.5
    max_scale: float = 1.5
    hue: float = 20.0
    saturation: float = 10 / 255
    value: float = 10 / 255
    flip: bool = True

    def __post_init__(self) -> None:
        at_least(1, crop_size=self.crop_size)
        positive(min_scale=self.min_scale)
        at_least(self.min_scale, max_scale=self.max_scale)
        within(0, 180, hue=self.hue)
        within(0, 1, saturation=self.saturation, value=self.value)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a training image."""
        return self.crop_size, self.crop_size

    def place(self, height: int, width: int, uniform: Sequence[float]) -> Placed:
        """Choose the scale of the image, and the row and column of the square, from three uniform numbers in [0, 1)."""
        scale = self.min_scale + uniform[0] * (self.max_scale - self.min_scale)
        scaled = [max(round(side * scale), 1) for side in (height, width)]
        begin = [
            int(number * (abs(side - self.crop_size) + 1)) * (1 if side > self.crop_size else -1)
            for side, number in zip(scaled, uniform[1:], strict=True)
        ]
        return Placed(*scaled, *begin)

    def image(self, image: Image.Image, placed: Placed) -> np.ndarray:
        """Scale an image bicubically with antialiasing and crop it. The result is uint8 `[crop_size, crop_size, 3]`."""
        square = np.full((*self.shape, 3), FILL, dtype=np.uint8)
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
        """Scale and crop a mask `[H, W]` by nearest-neighbour sampling, and pad it with 255."""
        square = torch.full(self.shape, IGNORED, dtype=torch.uint8)
        rows, columns = self._overlap(placed.top, placed.height), self._overlap(placed.left, placed.width)
        row = (torch.arange(rows.start, rows.stop) + placed.top + 0.5) * (mask.shape[0] / placed.height)
        column = (torch.arange(columns.start, columns.stop) + placed.left + 0.5) * (mask.shape[1] / placed.width)
        row, column = row.long().clamp(max=mask.shape[0] - 1), column.long().clamp(max=mask.shape[1] - 1)
        square[rows, columns] = mask[row[:, None], column]
        return square

    def _overlap(self, begin: int, length: int) -> slice:
        """Return, along one axis, the part of the square that the scaled image covers."""
        return slice(max(-begin, 0), min(length - begin, self.crop_size))

    def apply(self, batch: dict[str, Any], seed: int, epoch: int) -> dict[str, Any]:
        """Jitter image colours, and flip images and masks. The random numbers depend on (seed, epoch, index)."""
        uniform, colours = sample_uniform(seed, epoch, batch["index"], count=4), (self.hue, self.saturation, self.value)
        if any(colours):
            batch["image"] = 255 * jitter_colours(batch["image"].float() / 255, uniform[:, :3], *colours)
        if self.flip:
            mirror = uniform[:, 3] < 0.5
            for key in ("image", "label", "original_label", "clean_label"):
                if (whole := batch.get(key)) is not None:
                    chosen = mirror.view(-1, *[1] * (whole.ndim - 1))
                    batch[key] = torch.where(chosen, whole.flip(-1), whole)
        return batch
