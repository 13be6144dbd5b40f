"""Ranges of pixels: the batches of this project have [0, 1], and diffusion models have [-1, 1]."""

from torch import Tensor


def to_signed(image: Tensor) -> Tensor:
    """Rescale images from [0, 1] to [-1, 1]."""
    return 2 * image - 1


def to_unit(image: Tensor) -> Tensor:
    """Rescale images from [-1, 1] to [0, 1]."""
    return (image + 1) / 2
