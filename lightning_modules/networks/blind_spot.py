"""A dilated blind-spot network, whose output at a pixel does not depend on that pixel.

Two branches begin with a convolution without its centre tap, 3x3 in one and 5x5 in the other, and go on with 1x1
convolutions and 3x3 ones with dilation 2 and 3, whose taps lie on multiples of 2 and 3 pixels: no path leads from a
pixel to itself. With the centre taps, which are weights like the others, the same network sees the whole neighbourhood.

Source: Lee, Son and Lee, AP-BSN, CVPR 2022, arXiv 2203.11799 (`DBSN-l` of the authors' code); the switch and the second
ReLU of a dilated module: Jang, Lee, Park, Kim and Cho, Self-supervised Image Denoising with Downsampled Invariance Loss
and Conditional Blind-Spot Network, ICCV 2023, arXiv 2304.09507.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least

TAIL = 64
"""Channels of the last layers, of any network: with fewer, all of their ReLUs close early in training."""


class CentreMaskedConvolution(nn.Conv2d):
    """A convolution that keeps the size, with or without the centre tap of its kernel.

    Args:
        channels: of input and output.
        kernel_size: an odd number.
    """

    mask: Tensor

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2)
        mask = torch.ones_like(self.weight)
        mask[..., kernel_size // 2, kernel_size // 2] = 0
        self.register_buffer("mask", mask)

    def forward(self, image: Tensor, masked: bool = True) -> Tensor:
        weight = self.weight * self.mask if masked else self.weight
        return F.conv2d(image, weight, self.bias, padding=self.padding)


class DilatedModule(nn.Module):
    """A 3x3 dilated and a 1x1 convolution, added to their input."""

    def __init__(self, channels: int, dilation: int, last_relu: bool) -> None:
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels, channels, 1), *([nn.ReLU(inplace=True)] if last_relu else [])]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Branch(nn.Module):
    """A centre-masked convolution and what follows it without ever seeing the centre again."""

    def __init__(self, channels: int, dilation: int, modules: int, last_relu: bool) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        layers: list[nn.Module] = [CentreMaskedConvolution(channels, 2 * dilation - 1), relu]
        layers += [nn.Conv2d(channels, channels, 1), relu, nn.Conv2d(channels, channels, 1), relu]
        layers += [DilatedModule(channels, dilation, last_relu) for _ in range(modules)]
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, channels, 1), relu)

    def forward(self, x: Tensor, masked: bool) -> Tensor:
        first, *others = self.body
        x = first(x, masked)
        for layer in others:
            x = layer(x)
        return x


class BlindSpotNetwork(nn.Module):
    """Maps images `[B, C, H, W]` of any size to images, each pixel from the others around it alone.

    The weights have the names of the code of AP-BSN and of SDAP, whose files `with_weights` reads.

    Args:
        in_channels: channels of an image, C.
        channels: of the layers but the last ones, which have 64.
        modules: dilated modules of each branch.
        module_relu: whether a dilated module ends with a ReLU before its input is added, and weights begin He-normal,
            both as in C-BSN; AP-BSN and SDAP have neither.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, in_channels: int = 3, channels: int = 128, modules: int = 9, module_relu: bool = False) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, channels=channels, modules=modules)
        relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Conv2d(in_channels, channels, 1), relu)
        self.branch1 = Branch(channels, 2, modules, module_relu)
        self.branch2 = Branch(channels, 3, modules, module_relu)
        layers: list[nn.Module] = [nn.Conv2d(2 * channels, channels, 1), relu, nn.Conv2d(channels, TAIL, 1), relu]
        self.tail = nn.Sequential(*layers, nn.Conv2d(TAIL, TAIL, 1), relu, nn.Conv2d(TAIL, in_channels, 1))
        if module_relu:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    he_normal(layer)

    def forward(self, image: Tensor, masked: bool = True) -> Tensor:
        """Map images to images; with `masked` no pixel of the output sees the pixel in its place."""
        x = self.head(image)
        return self.tail(torch.cat([self.branch1(x, masked), self.branch2(x, masked)], dim=1))


def he_normal(layer: nn.Conv2d) -> None:
    """Begin with weights of variance 2 / fan_in, normal at the centre-masked layers and truncated at the others."""
    std = math.sqrt(2 / layer.weight[0].numel())
    if isinstance(layer, CentreMaskedConvolution):
        nn.init.normal_(layer.weight, std=std)
    else:  # a normal distribution that is cut at two standard deviations has 0.8796 of its own
        wide = std / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, std=wide, a=-2 * wide, b=2 * wide)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
