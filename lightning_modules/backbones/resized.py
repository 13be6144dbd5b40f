"""Resize images for networks with a fixed image size, or upsample them by bicubic interpolation."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Resized(nn.Module):
    """Wrap a network so that its input images, `[B, C, H, W]`, are first resized to squares, with antialiasing.

    Args:
        network: network that receives images `[B, C, image_size, image_size]`.
        image_size: height and width of the resized images, in pixels.
        mode: interpolation mode.
    """

    def __init__(self, network: nn.Module, image_size: int, mode: Literal["bilinear", "bicubic"] = "bilinear") -> None:
        super().__init__()
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        self.network = network
        self.image_size = image_size
        self.mode = mode

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, mode={self.mode}"

    def forward(self, image: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        return self.network(F.interpolate(image, size, mode=self.mode, antialias=True))


def upsample_bicubic(image: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample images, `[B, C, h, w]`, to size (H, W) by bicubic interpolation; values may exceed the input's range."""
    size = tuple(size)
    return image if image.shape[2:] == size else F.interpolate(image, size, mode="bicubic", align_corners=False)


def times_larger(image: Tensor, factor: int) -> Tensor:
    """Upsample images by the integer `factor`, with bicubic interpolation."""
    return upsample_bicubic(image, [factor * side for side in image.shape[2:]])
