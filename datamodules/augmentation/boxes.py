"""Sample boxes of random area, aspect ratio and position.

Up to ten candidate boxes are sampled for each image, and the first one that fits into the image is used.

Source: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv 1409.4842. Like torchvision's
RandomResizedCrop.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ATTEMPTS = 10
"""Number of candidate boxes per image. The first candidate that fits into the image is used."""
NUM_UNIFORM = 2 + 2 * ATTEMPTS
"""Count of uniform numbers per image: one each for row and column, and two (area, aspect ratio) per candidate box."""


class Box(NamedTuple):
    """Rectangular part of an image, in source pixels."""

    left: float
    top: float
    right: float
    bottom: float


Numbers = TypeVar("Numbers", Tensor, NDArray[np.float64])


def random_sides(
    uniform: Numbers, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Numbers, Numbers]:
    """Sample heights and widths in pixels, each `[B, ATTEMPTS]`, with uniform area and log-uniform aspect ratio.

    For a single image, pass `uniform` as a NumPy array. This is four times as fast as a tensor.

    Args:
        uniform: uniform numbers in [0, 1), `[B, NUM_UNIFORM]`.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        area: smallest and largest area of the box, as fractions of the area of the image.
        ratio: smallest and largest ratio of width to height.
    """
    least, greatest = map(math.log, ratio)
    pixels = height * width * (area[0] + uniform[:, 2::2] * (area[1] - area[0]))
    arrays: Any = torch if isinstance(uniform, Tensor) else np
    aspect = arrays.exp(least + uniform[:, 3::2] * (greatest - least))
    return arrays.sqrt(pixels / aspect), arrays.sqrt(pixels * aspect)


def first_fitting(tall: Tensor, wide: Tensor, fits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the height and width of the first box that fits, and whether any box fits, each `[B]`.

    Args:
        tall: heights of the candidate boxes, `[B, ATTEMPTS]`.
        wide: widths of the candidate boxes, `[B, ATTEMPTS]`.
        fits: whether each candidate box fits into the image, `[B, ATTEMPTS]`.
    """
    first = fits.int().argmax(dim=1, keepdim=True)
    return tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0], fits.any(dim=1)


def box_of_random_area(
    width: int, height: int, uniform: Sequence[float], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Sample a box with integer coordinates in one image.

    If no box fits, use the largest centred box whose aspect ratio is allowed.

    Args:
        width: width of the source, in pixels.
        height: height of the source, in pixels.
        uniform: `NUM_UNIFORM` uniform numbers in [0, 1).
        scale: smallest and largest area of the box, as fractions of the area of the image.
        ratio: smallest and largest ratio of width to height.
    """
    tall, wide = (np.rint(side[0]) for side in random_sides(np.array([uniform]), height, width, scale, ratio))
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = int(fits.argmax())
    if fits[first]:
        row, column = uniform[:2]
        box_height, box_width = int(tall[first]), int(wide[first])
        left, top = math.floor(column * (width - box_width + 1)), math.floor(row * (height - box_height + 1))
    else:
        box_width, box_height = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
        left, top = (width - box_width) // 2, (height - box_height) // 2
    return Box(left, top, left + box_width, top + box_height)
