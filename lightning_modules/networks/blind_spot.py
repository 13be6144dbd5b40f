"""A dilated blind-spot network: the output at a pixel does not depend on that pixel.

Each of the two branches starts with a convolution without a centre weight. This first convolution is 3x3 in the first
branch and 5x5 in the second branch. All further layers of a branch are 1x1 convolutions or dilated 3x3 convolutions,
whose dilation is 2 in the first branch and 3 in the second branch. The dilated convolutions shift pixels by multiples
of the dilation. The first convolution shifts pixels by smaller distances, which such multiples cannot cancel.
Therefore, no path leads from an input pixel to the output pixel at the same position. The centre weights of the first
convolutions exist, but are normally masked. If they are used, the output also depends on the input pixel at the same
position.

Source: Lee, Son and Lee, AP-BSN, CVPR 2022, arXiv 2203.11799 (`DBSN-l` of the authors' code); the option `masked` and
the second ReLU of a dilated module: Jang, Lee, Park, Kim and Cho, Self-supervised Image Denoising with Downsampled
Invariance Loss and Conditional Blind-Spot Network, ICCV 2023, arXiv 2304.09507.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least

TAIL = 64
"""Number of channels of the last layers, for any width. With fewer channels, all their ReLUs die early in training."""


class CentreMaskedConvolution(nn.Conv2d):
    """A size-preserving convolution, with or without the centre tap of its kernel.

    Args:
        channels: number of input and output channels.
        kernel_size: height and width of the kernel; an odd number.
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
    """A 3x3 dilated convolution and a 1x1 convolution. The output of the 1x1 convolution is added to the input."""

    def __init__(self, channels: int, dilation: int, last_relu: bool) -> None:
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels, channels, 1), *([nn.ReLU(inplace=True)] if last_relu else [])]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Branch(nn.Module):
    """A centre-masked convolution, followed by layers that keep outputs independent of the pixel at their place."""

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
    """Map images `[B, C, H, W]` of any size to images; each output pixel depends only on input pixels around it.

    Weight names follow the code of AP-BSN and of SDAP, so `lightning_modules.backbones.with_weights` can read the
    authors' files.

    Args:
        in_channels: channels of an image, C.
        channels: channels of all layers except the last layers, which have 64.
        modules: number of dilated modules in each branch.
        module_relu: whether to apply a second ReLU in each dilated module before its input is added, and to initialise
            all weights with He-normal values. C-BSN uses both; AP-BSN and SDAP use neither.
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
        """Map images to images. With `masked`, an output pixel does not depend on the input pixel at its position."""
        x = self.head(image)
        return self.tail(torch.cat([self.branch1(x, masked), self.branch2(x, masked)], dim=1))


def he_normal(layer: nn.Conv2d) -> None:
    """Initialise weights with variance 2 / fan_in: normal in centre-masked layers, truncated normal in others."""
    std = math.sqrt(2 / layer.weight[0].numel())
    if isinstance(layer, CentreMaskedConvolution):
        nn.init.normal_(layer.weight, std=std)
    else:  # truncation at two standard deviations multiplies the standard deviation by 0.8796
        wide = std / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, std=wide, a=-2 * wide, b=2 * wide)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
