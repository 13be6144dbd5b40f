"""Images resized as a network's first layer, for pre-trained networks that expect larger images than a data set has."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Resized(nn.Module):
    """A network that sees images `[B, C, H, W]` resized to squares, with antialiasing.

    Args:
        network: takes images `[B, C, image_size, image_size]`.
        image_size: height and width in pixels.
        mode: of the interpolation.

    Raises:
        ValueError: if `image_size` is less than 1.
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
