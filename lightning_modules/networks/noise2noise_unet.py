"""The U-Net of the Noise2Noise literature, with weights shared between its inner levels, as in Noise2Score.

The encoder has five pooling layers. At each level, the decoder concatenates its features with the encoder's pooled
features, and at full resolution with the image itself. The convolutions before the second to fifth pooling layer share
their weights: a single block is applied four times. In the decoder, all levels except the coarsest and the finest share
a second block, which is applied three times. This sharing keeps the network small: 698,017 parameters for grey images.

Source: Lehtinen et al., Noise2Noise: Learning Image Restoration without Clean Data, ICML 2018, arXiv 1803.04189, with
the weight sharing of the code of Kim and Ye, Noise2Score, NeurIPS 2021, arXiv 2106.07009. The code of Noise2Score
requires image sides that are multiples of 32. Here, images of other sizes are padded by reflection, and the output is
cropped.
"""

import itertools

import torch
from torch import Tensor, nn

from lightning_modules.backbones.tiled import apply_padded


def convolutions(*channels: int) -> list[nn.Module]:
    """Build size-preserving 3x3 convolutions, each with a leaky ReLU of slope 0.1."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
    return layers


def doubling_convolution(channels: int) -> nn.ConvTranspose2d:
    """Build a transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)


class Noise2NoiseUNet(nn.Module):
    """Map images `[B, C, H, W]` to unbounded values of the same shape.

    Weights start as N(0, 0.02^2) and biases at zero, as in Noise2Score's code.

    Args:
        channels: channels of an image, C.
        width: channels of the encoder's features; the decoder's features have twice as many.
    """

    def __init__(self, channels: int = 1, width: int = 48) -> None:
        super().__init__()
        self.first = nn.Sequential(*convolutions(channels, width, width), nn.MaxPool2d(2))
        self.down = nn.Sequential(*convolutions(width, width), nn.MaxPool2d(2))
        self.deepest = nn.Sequential(*convolutions(width, width), doubling_convolution(width))
        self.up_first = nn.Sequential(*convolutions(2 * width, 2 * width, 2 * width), doubling_convolution(2 * width))
        self.up = nn.Sequential(*convolutions(3 * width, 2 * width, 2 * width), doubling_convolution(2 * width))
        self.last = nn.Sequential(*convolutions(2 * width + channels, 64, 32), nn.Conv2d(32, channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        return apply_padded(self._whole, image, 32)

    def _whole(self, image: Tensor) -> Tensor:
        """Apply the network to images whose height and width are multiples of 32."""
        pooled = [self.first(image)]
        for _ in range(4):
            pooled.append(self.down(pooled[-1]))
        x = self.up_first(torch.cat([self.deepest(pooled[4]), pooled[3]], dim=1))
        for skip in (pooled[2], pooled[1], pooled[0]):
            x = self.up(torch.cat([x, skip], dim=1))
        return self.last(torch.cat([x, image], dim=1))
