"""The interface of sets of images with surface normals: a plain object that reads its splits, and knows no batches.

A normal is a unit vector (x, y, z) in the camera's frame: x to the right of the image, y up, z towards the viewer. A
surface that faces the camera is (0, 0, 1), a floor (0, 1, 0). Sets that are stored in other axes are turned into these.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["training", "validation", "test"]


class NormalSource(ABC):
    """The images and normals of one split, wherever they are kept."""

    names: Sequence[str]
    """Names of the images, `[N]`, without suffix."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each image, `[N]`."""
    in_memory: bool = False
    """Whether an image is fetched so quickly that loader processes would not help."""

    @abstractmethod
    def read(self, position: int) -> tuple[NDArray, NDArray]:
        """Read an image `[3, H, W]`, uint8, and its normals `[3, H, W]`, see `decoded`."""


class NormalSet(ABC):
    """A data set of images with surface normals."""

    @abstractmethod
    def source(self, split: Split) -> NormalSource:
        """Find a split; a set without splits gives all its images for any.

        Raises:
            FileNotFoundError: if the images are missing, saying what was expected where.
            ValueError: if an image has no normals.
        """


class NormalsInMemory(NormalSource):
    """Images and normals of one size, held as arrays.

    Args:
        image: `[N, 3, H, W]`, uint8.
        normal: `[N, 3, H, W]`, see `decoded`.
        names: names of the images, `[N]`.
    """

    in_memory = True

    def __init__(self, image: NDArray, normal: NDArray, names: Sequence[str]) -> None:
        self.image = image
        self.normal = normal
        self.names = names
        height, width = image.shape[2:]
        self.sizes = [(height, width)] * len(image)

    def read(self, position: int) -> tuple[NDArray, NDArray]:
        return self.image[position], self.normal[position]


def turned(normal: NDArray, axes: Sequence[int]) -> NDArray:
    """Negate axes of stored normals `[3, H, W]`: of bytes v, which stand for 2 v / 255 - 1, they become 255 - v."""
    negated = np.asarray(axes)[:, None, None] < 0
    return np.where(negated, 255 - normal if normal.dtype == np.uint8 else -normal, normal)


def decoded(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Give normals of bytes or numbers, and the zero vector where there are none.

    A pixel has a normal where the stored vector's length is between 0.5 and 1.5, as in the method's authors' measure:
    black, (-1, -1, -1), has none, nor has the zero vector. Lengths are left as they are.

    Args:
        stored: `[B, 3, H, W]`, uint8 v for 2 v / 255 - 1, or floating-point numbers.
        dtype: of the result.
    """
    normal = stored.to(dtype)
    if not stored.is_floating_point():
        normal = normal / 255 * 2 - 1
    length = normal.norm(dim=1, keepdim=True)
    return torch.where((length > 0.5) & (length < 1.5), normal, 0)
