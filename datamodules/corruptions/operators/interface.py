"""Interface of forward operators."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor


class Operator(ABC):
    """A differentiable map H from images x, `[B, C, H, W]` in [-1, 1], to measurements y = H(x)."""

    measures_images: bool = True
    """Whether a measurement is an image that can be saved to a file."""

    def measured_channels(self, channels: int) -> int:
        """Return the number of channels of the measurement, given the number of channels of the image."""
        return channels

    def of(self, index: Tensor, size: tuple[int, int]) -> "Operator":
        """Return the operator for a batch of images.

        The result is `self`, unless the operator is different for each image.

        Args:
            index: positions of the images in the dataset, `[B]`, int64, on the device of the images.
            size: height and width of the images.
        """
        return self

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Compute the measurements y = H(x) of images."""

    @abstractmethod
    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Reconstruct images `[B, C, H, W]` from measurements.

        The result is H^+ y if H is linear, and otherwise a first estimate.
        """


class LinearOperator(Operator):
    """A matrix H and its Moore-Penrose inverse H^+: H H^+ H = H, and both H H^+ and H^+ H are symmetric."""

    @abstractmethod
    def transpose(self, measured: Tensor) -> Tensor:
        """Apply H^T: <H x, y> = <x, H^T y>."""

    @abstractmethod
    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply V g(S) V^T to images, where g is a function of the singular values S of H = U S V^T.

        Args:
            image: images, `[B, C, H, W]`.
            gain: function g, applied elementwise to singular values. The singular value of unmeasured directions is 0.
        """
