"""The interface of operators."""

from abc import ABC, abstractmethod

from torch import Tensor


class Operator(ABC):
    """A map H of images x, `[B, C, H, W]` in [-1, 1], to measurements y, differentiable in x."""

    measures_images: bool = True
    """Whether a measurement is an image, which a file can hold."""

    def measured_channels(self, channels: int) -> int:
        """Count the channels of the measurement of an image with `channels`."""
        return channels

    def of(self, index: Tensor, size: tuple[int, int]) -> "Operator":
        """Give the operator of some images, where each image has its own; otherwise it is this one.

        Args:
            index: `[B]`, int64: positions of the images in their set, on the device of the images.
            size: height and width of the images.
        """
        return self

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Measure images."""

    @abstractmethod
    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Give images `[B, C, H, W]` of measurements: H^+ y if H is linear, otherwise a first estimate."""


class LinearOperator(Operator):
    """A matrix H, with H H^+ H = H, and both H H^+ and H^+ H symmetric."""

    @abstractmethod
    def transpose(self, measured: Tensor) -> Tensor:
        """Apply H^T: <H x, y> = <x, H^T y>."""
