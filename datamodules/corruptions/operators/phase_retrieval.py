"""Phase retrieval: only the magnitudes of the Fourier transform of an image are measured."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import positive
from datamodules.corruptions.operators.interface import Operator


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """Phase retrieval, y = |F pad(x)|. F is the centred, orthonormal Fourier transform of each channel.

    On each side, the image is zero-padded by `oversampling` / 8 of its side length. The first estimate is the central
    crop of |F^-1 y|.

    Args:
        oversampling: amount of padding. For example, the value 2 makes each side of the image 1.5 times as long.
    """

    oversampling: float = 2.0
    measures_images = False

    def __post_init__(self) -> None:
        positive(oversampling=self.oversampling)

    def padding(self, size: int) -> int:
        """Return the number of zeros that are added at each end of an image axis."""
        return int(self.oversampling / 8 * size)

    def forward(self, image: Tensor) -> Tensor:
        down, across = (self.padding(size) for size in image.shape[-2:])
        padded = F.pad(image, (across, across, down, down))
        return _centre(padded, torch.fft.fft2).abs()

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        height, width = (self._unpad(size) for size in measured.shape[-2:])
        image = _centre(measured, torch.fft.ifft2).abs()
        down, across = self.padding(height), self.padding(width)
        return image[..., down : down + height, across : across + width]

    def _unpad(self, padded: int) -> int:
        for size in range(padded, 0, -1):
            if size + 2 * self.padding(size) == padded:
                return size
        raise ValueError(
            f"with oversampling {self.oversampling:g}, no image size gives a measurement of size {padded} along an axis"
        )


def _centre(values: Tensor, transform: Callable[..., Tensor]) -> Tensor:
    """Apply an orthonormal Fourier transform.

    The origin of the input and of the output is in the centre.
    """
    axes = (-2, -1)
    return torch.fft.fftshift(transform(torch.fft.ifftshift(values, dim=axes), dim=axes, norm="ortho"), dim=axes)
