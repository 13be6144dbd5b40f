"""Linear operators that act along columns and along rows: average downsampling, bicubic downsampling and blur."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least, positive
from datamodules.corruptions.operators.interface import LinearOperator

LEAST_SINGULAR_VALUE = 0.03
"""Smaller singular values are set to 0 in H and H^+, because their inverses would amplify noise."""


class Separable(LinearOperator):
    """Base class of operators y = A x A^T, applied to every channel.

    The left matrix A acts along the height, and A^T on the right acts along the width. For images that are not square,
    the two matrices A have different sizes but the same construction.

    Let (x) denote the Kronecker product. Then H = A (x) A, H^T = A^T (x) A^T and H^+ = A^+ (x) A^+. Singular values of
    A that are below 0.03 are set to 0.
    """

    factor: int = 1
    """Number of image pixels per measured pixel, along each axis."""

    @abstractmethod
    def matrix(self, size: int) -> NDArray[np.float64]:
        """Return A, `[size / factor, size]`."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = (_parts(self, size, image.dtype, image.device)[0] for size in image.shape[-2:])
        return height @ image @ width.T

    def transpose(self, measured: Tensor) -> Tensor:
        height, width = (part[0] for part in self._parts_of_measured(measured))
        return height.T @ measured @ width

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        height, width = (part[1] for part in self._parts_of_measured(measured))
        return height @ measured @ width.T

    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        (height, rows), (width, columns) = (
            _right_vectors(self, size, image.dtype, image.device) for size in image.shape[-2:]
        )
        spectrum = height @ image @ width.T
        return height.T @ (gain(rows[:, None] * columns) * spectrum) @ width

    def _parts_of_measured(self, measured: Tensor) -> list[tuple[Tensor, Tensor]]:
        sizes = (size * self.factor for size in measured.shape[-2:])
        return [_parts(self, size, measured.dtype, measured.device) for size in sizes]


@lru_cache(maxsize=64)
def _parts(operator: Separable, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return A and its pseudo-inverse A^+, both with the small singular values of A set to 0."""
    if size % operator.factor:
        raise ValueError(
            f"{type(operator).__name__} needs images whose sides are multiples of {operator.factor}, got {size}"
        )
    u, s, vt = np.linalg.svd(operator.matrix(size), full_matrices=False)
    kept = s >= LEAST_SINGULAR_VALUE
    u, s, vt = u[:, kept], s[kept], vt[kept]
    matrices = (u * s) @ vt, (vt.T / s) @ u.T
    with torch.inference_mode(False):  # so that autograd can use the matrices
        a, inverse = (torch.from_numpy(each).to(device, dtype) for each in matrices)
    return a, inverse


@lru_cache(maxsize=64)
def _right_vectors(operator: Separable, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return V^T, `[size, size]`, and S, `[size]`, of A = U S V^T. In S, small singular values are set to 0."""
    _, s, vt = np.linalg.svd(operator.matrix(size))
    values = np.zeros(size)
    values[: len(s)] = np.where(s >= LEAST_SINGULAR_VALUE, s, 0)
    with torch.inference_mode(False):
        return torch.from_numpy(vt).to(device, dtype), torch.from_numpy(values).to(device, dtype)


@dataclass(frozen=True)
class AverageDownsampling(Separable):
    """Downsample an image by averaging blocks.

    The pseudo-inverse repeats each measured pixel.

    Args:
        factor: side of a block, in pixels.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        at_least(2, factor=self.factor)

    def matrix(self, size: int) -> NDArray[np.float64]:
        return np.kron(np.eye(size // self.factor), np.full((1, self.factor), 1 / self.factor))


@dataclass(frozen=True)
class Bicubic(Separable):
    """Downsample an image with a bicubic kernel (a = -1/2) and reflection padding.

    The kernel has `4 * factor` taps.

    Args:
        factor: number of image pixels per downsampled pixel, along each axis.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        at_least(2, factor=self.factor)

    def matrix(self, size: int) -> NDArray[np.float64]:
        taps = 4 * self.factor
        distance = np.abs(np.arange(taps) - taps // 2 + 0.5) / self.factor
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        kernel = np.where(distance <= 1, near, far)
        centre = np.arange(size // self.factor) * self.factor + self.factor // 2
        place = (centre[:, None] - taps // 2 + np.arange(taps)) % (2 * size)
        place = np.where(place < size, place, 2 * size - 1 - place)
        matrix = np.zeros((len(centre), size))
        np.add.at(matrix, (np.arange(len(centre))[:, None], place), kernel / kernel.sum())
        return matrix


@dataclass(frozen=True)
class Blur(Separable):
    """Blur an image with a short Gaussian kernel.

    Outside the image, all pixels are assumed to be grey.

    The blur in the published code of DDRM and RED-diff is different. That code omits the last tap of the kernel, and
    assigns the singular values of colour images to wrong channels and frequencies. Results published with that code are
    therefore not comparable with results of this operator.

    Args:
        taps: length of the kernel, an odd number.
        deviation: standard deviation of the Gaussian, in pixels. Infinity gives a kernel of equal weights.
    """

    taps: int = 5
    deviation: float = 25.0

    def __post_init__(self) -> None:
        at_least(3, taps=self.taps)
        positive(deviation=self.deviation)
        if self.taps % 2 == 0:
            raise ValueError(f"taps must be odd, got {self.taps}")

    def matrix(self, size: int) -> NDArray[np.float64]:
        reach = self.taps // 2
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.deviation) ** 2)
        offset = np.arange(size) - np.arange(size)[:, None]
        return np.where(np.abs(offset) <= reach, (kernel / kernel.sum())[offset.clip(-reach, reach) + reach], 0.0)
