"""Interface of operators."""

from abc import ABC, abstractmethod

from torch import Tensor


class Operator(ABC):
    """A map H from images x, `[B, C, H, W]` in [-1, 1], to measurements y, differentiable in x."""

    measures_images: bool = True
    """Whether a measurement is an image that can be saved to a file."""

    def measured_channels(self, channels: int) -> int:
        """Return the number of channels in the measurement of an image with `channels` channels."""
        return channels

    def of(self, index: Tensor, size: tuple[int, int]) -> "Operator":
        """Return the operator for given images if operators differ between images; otherwise return this operator.

        Args:
            index: `[B]`, int64: positions of the images in their dataset, on the images' device.
            size: height and width of the images.
        """
        return self

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Measure images."""

    @abstractmethod
    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Reconstruct images `[B, C, H, W]` from measurements: H^+ y if H is linear, otherwise a first estimate."""


class LinearOperator(Operator):
    """A matrix H with Moore-Penrose inverse H^+: H H^+ H = H, and both H H^+ and H^+ H are symmetric."""

    @abstractmethod
    def transpose(self, measured: Tensor) -> Tensor:
        """Apply H^T: <H x, y> = <x, H^T y>."""
