"""The discriminator of Real-ESRGAN: a U-Net with spectral normalisation that scores every pixel as real or fake.

Source: Wang, Xie, Dong and Shan, Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, ICCV
Workshops 2021, arXiv 2107.10833.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from datamodules.arguments import at_least


class UNetDiscriminator(nn.Module):
    """Map images `[B, C, H, W]` to scores `[B, 1, H, W]`; H and W must be multiples of 8.

    Three 4x4 convolutions downsample the image. Three 3x3 convolutions, each after bilinear upsampling, restore the
    resolution; skip connections are additive. All convolutions except the first and the last have spectral
    normalisation.

    Args:
        in_channels: channels of an image, C.
        width: channels at full resolution, doubled at each downsampling.
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, width=width)
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            self.down.append(spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)))
            self.up.insert(0, spectral_norm(nn.Conv2d(after, before, 3, padding=1, bias=False)))
        self.after = nn.ModuleList(spectral_norm(nn.Conv2d(width, width, 3, padding=1, bias=False)) for _ in range(2))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel; a positive score means that the pixel looks real."""
        if any(side % 8 for side in image.shape[2:]):
            raise ValueError(f"UNetDiscriminator needs sides that are multiples of 8, got {list(image.shape)}")
        levels = [F.leaky_relu(self.first(image), 0.2)]
        for layer in self.down:
            levels.append(F.leaky_relu(layer(levels[-1]), 0.2))
        x = levels.pop()
        for layer in self.up:
            larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(layer(larger), 0.2) + levels.pop()
        for layer in self.after:
            x = F.leaky_relu(layer(x), 0.2)
        return self.last(x)
