"""Interface of datasets of images with surface normals.

A dataset reads its splits, and its DataModule decides which images form a batch.

A normal is a unit vector (x, y, z) in the camera frame: x points to the right of the image, y points up, and z points
towards the viewer. A surface that faces the camera has the normal (0, 0, 1), and a floor has (0, 1, 0). Normals that
are stored with different axes are converted to this frame.
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
    """The images and normals of one split, in memory or in files."""

    names: Sequence[str]
    """Names of the images, `[N]`, without suffix."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each image, `[N]`."""
    in_memory: bool = False
    """Whether the images are in memory. If so, DataLoader workers do not help."""

    @abstractmethod
    def read(self, position: int) -> tuple[NDArray, NDArray]:
        """Read a uint8 image `[3, H, W]`, and its normals `[3, H, W]` as they are stored.

        The function `decode_normals` converts the stored normals to vectors.
        """


class NormalSet(ABC):
    """A dataset of images with surface normals."""

    @abstractmethod
    def source(self, split: Split) -> NormalSource:
        """Return a split.

        A dataset without splits returns all images for every split.

        Raises:
            FileNotFoundError: if the images are missing. The message names the expected path.
            ValueError: if an image has no normals.
        """


class NormalsInMemory(NormalSource):
    """Images and normals of one size, in memory.

    Args:
        image: images `[N, 3, H, W]`, uint8.
        normal: stored normals `[N, 3, H, W]`, see `decode_normals`.
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


def flip_axes(normal: NDArray, axes: Sequence[int]) -> NDArray:
    """Negate the components of stored normals `[3, H, W]` for which `axes` is -1.

    An 8-bit value v means 2 v / 255 - 1, so its negative is 255 - v.
    """
    negated = np.asarray(axes)[:, None, None] < 0
    return np.where(negated, 255 - normal if normal.dtype == np.uint8 else -normal, normal)


def decode_normals(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert stored normals to vectors.

    Pixels without a normal become zero vectors.

    A pixel has a normal if the norm of the stored vector is between 0.5 and 1.5, as in the authors' evaluation code.
    Black pixels, which mean (-1, -1, -1), and zero vectors therefore have no normal. The vectors are not normalised.

    Args:
        stored: stored normals `[B, 3, H, W]`: either uint8 values v that mean 2 v / 255 - 1, or floating-point numbers.
        dtype: dtype of the result.
    """
    normal = stored.to(dtype)
    if not stored.is_floating_point():
        normal = normal / 255 * 2 - 1
    length = normal.norm(dim=1, keepdim=True)
    return torch.where((length > 0.5) & (length < 1.5), normal, 0)
