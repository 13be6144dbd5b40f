"""Inpainting: only some pixels of an image are measured."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.arguments import within
from datamodules.corruptions.operators.interface import LinearOperator
from datamodules.files.image_files import image_names, opened_image
from datamodules.randomness.counter import CounterRNG

STREAM = 4000
"""Index of the random stream of the masks, different from that of the noise."""


@dataclass(frozen=True, eq=False)
class Inpainting(LinearOperator):
    """Inpainting with masks that are passed as an argument: y = m x, pixel by pixel.

    H equals its transpose and its pseudo-inverse.

    Args:
        mask: mask m, `[B, 1, H, W]` or `[B, C, H, W]`. It is 1 where the image is known and 0 elsewhere.
    """

    mask: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return image * self.mask.to(image)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return self.forward(measured)

    def transpose(self, measured: Tensor) -> Tensor:
        return self.forward(measured)

    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        return gain(self.mask.to(image)) * image


class Masks(LinearOperator):
    """Inpainting with a separate mask for each image.

    Use the method `of` to get the operator with the masks of a batch.
    """

    @abstractmethod
    def mask(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the masks `[B, 1, H, W]`, on the device of `index`."""

    def of(self, index: Tensor, size: tuple[int, int]) -> Inpainting:
        return Inpainting(self.mask(index, size))

    def forward(self, image: Tensor) -> Tensor:
        """Raise an error, because the masks depend on the positions of the images in the dataset.

        Raises:
            TypeError: always. Use `of` to obtain the operator for a batch of images.
        """
        raise TypeError(f"each image has its own mask: use the operator from {type(self).__name__}.of(index, size)")

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return self.forward(measured)

    def transpose(self, measured: Tensor) -> Tensor:
        return self.forward(measured)

    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        return self.forward(image)


@dataclass(frozen=True)
class RandomPixels(Masks):
    """Keep each pixel with the probability `kept`. All channels of a pixel are kept or hidden together.

    Args:
        kept: probability that a pixel is kept, in (0, 1].
        seed: random seed of the masks.
    """

    kept: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        within(0, 1, "(]", kept=self.kept)

    def mask(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        like = torch.empty(len(index), 1, *size, device=index.device)
        return CounterRNG(self.seed, 0, index, STREAM).uniform(like) < self.kept


@dataclass(frozen=True)
class FreeForm(Masks):
    """Hide the pixels under random brush strokes, like those with which a user erases objects.

    Strokes are bent lines of random width. Strokes are added until the hidden fraction of the image lies between
    `least` and `most`. Published tables for 20 to 30 % hidden pixels use the masks of Palette. These masks have not
    been published, and differ from the masks used here.

    Args:
        least: smallest hidden fraction of an image.
        most: largest hidden fraction of an image.
        seed: random seed of the masks.
    """

    least: float = 0.2
    most: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        within(0, 1, "()", most=self.most)
        within(0, self.most, "[)", least=self.least)

    def mask(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        drawn = np.stack([self._strokes(row, *size) for row in index.tolist()])
        return torch.from_numpy(~drawn)[:, None].to(index.device)

    def _strokes(self, index: int, height: int, width: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, index))
        hidden = np.zeros((height, width), bool)
        thick = 0.15 * min(height, width)
        while hidden.mean() < self.least or not hidden.any():
            canvas = Image.new("1", (width, height))
            steps = random.uniform(-0.25, 0.25, (random.integers(2, 8), 2)) * (width, height)
            path = random.uniform(0, 1, 2) * (width, height) + np.cumsum(steps, axis=0)
            points = [tuple(point) for point in path.clip(0, (width - 1, height - 1)).tolist()]
            ImageDraw.Draw(canvas).line(points, fill=1, width=max(1, round(thick * random.uniform(0.4, 1))))
            more = hidden | np.array(canvas)
            if more.mean() <= self.most:
                hidden = more
            else:
                thick *= 0.8
                if thick < 1e-3:
                    raise ValueError(
                        f"no mask of {height} x {width} pixels hides a fraction of {self.least:g} to {self.most:g} of "
                        "them"
                    )
        return hidden


@dataclass(frozen=True)
class MaskFolder(Masks):
    """Inpainting with masks that are read from image files.

    A mask is white where the image is known. Masks are sorted by file name; the i-th mask belongs to the i-th image.

    Args:
        mask_dir: folder of masks, one for each image. A mask has the same size as its image.
    """

    mask_dir: str

    @cached_property
    def names(self) -> list[str]:
        """Sorted names of the mask files."""
        if not (names := image_names(Path(self.mask_dir).expanduser())):
            raise FileNotFoundError(f"mask_dir {self.mask_dir} has no image; expected one mask per image")
        return names

    def mask(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        masks = []
        for row in index.tolist():
            if row >= len(self.names):
                raise ValueError(f"mask_dir {self.mask_dir} has {len(self.names)} masks, but there is an image number "
                                 f"{row + 1}")  # fmt: skip
            with opened_image(Path(self.mask_dir).expanduser() / self.names[row], "a mask") as file:
                image = file.convert("L") if file.size == (size[1], size[0]) else file  # wrong sizes are not decoded
            if image.size != (size[1], size[0]):
                raise ValueError(f"mask {self.names[row]} in {self.mask_dir} has {image.height} x {image.width} "
                                 f"pixels, but its image has {size[0]} x {size[1]}")  # fmt: skip
            masks.append(np.array(image) > 127)
        return torch.from_numpy(np.stack(masks))[:, None].to(index.device)
