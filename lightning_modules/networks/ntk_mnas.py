"""A network of MnasNet's inverted residual blocks in neural-tangent-kernel scaling, for two classes of images.

All weights are N(0, 1); the forward pass divides convolutions with k x k kernels on c channels by k sqrt(c), depthwise
convolutions by k, and the output layer by its number of inputs. Images are padded as in TensorFlow ("same").

Source: code of Sclocchi, Geiger and Wyart, arXiv 2301.13703 (`mnas`), after Tan et al., MnasNet, CVPR 2019.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.networks.ntk_mlp import Activation, UnitActivation


class NTKConv(nn.Module):
    """A convolution without bias. Its padding keeps the image size, so that only a stride reduces it.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels; None gives a depthwise convolution.
        kernel_size: height and width of the kernel.
        stride: stride of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int | None, kernel_size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.groups = in_channels if out_channels is None else 1
        fan_in = in_channels // self.groups
        self.weight = nn.Parameter(torch.randn(out_channels or in_channels, fan_in, kernel_size, kernel_size))
        self.scale = 1 / (kernel_size * math.sqrt(fan_in))

    def forward(self, image: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        sides: list[int] = []
        for size in (image.shape[-1], image.shape[-2]):
            missing = max((math.ceil(size / self.stride) - 1) * self.stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        padded = F.pad(image, sides) if any(sides) else image
        return self.scale * F.conv2d(padded, self.weight, stride=self.stride, groups=self.groups)


class InvertedResidual(nn.Module):
    """Three convolutions (1 x 1 expansion, 5 x 5 depthwise, 1 x 1 projection), with a skip connection if shapes agree.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        stride: stride of the 5 x 5 convolution.
        activation: `relu`, `gelu` or `silu`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        wide = 3 * in_channels
        self.layers = nn.Sequential(
            NTKConv(in_channels, wide),
            UnitActivation(activation),
            NTKConv(wide, None, kernel_size=5, stride=stride),
            UnitActivation(activation),
            NTKConv(wide, out_channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        result = self.layers(image)
        return (result + image) / math.sqrt(2) if result.shape == image.shape else result


class NTKMnas(nn.Module):
    """A convolutional network with four inverted residual blocks and one output.

    Args:
        width: h, the base width. From first to last, the layers have 4 h, 2 h, h, h, 3 h, 3 h and 20 h channels.
        in_channels: channels of an image.
        activation: `relu`, `gelu` or `silu`.
    """

    def __init__(self, width: int, in_channels: int = 3, activation: Activation = "relu") -> None:
        super().__init__()
        at_least(1, width=width, in_channels=in_channels)
        blocks = ((2 * width, width, 2), (width, width, 1), (width, 3 * width, 2), (3 * width, 3 * width, 1))
        self.layers = nn.Sequential(
            NTKConv(in_channels, 4 * width, kernel_size=5, stride=2),
            UnitActivation(activation),
            NTKConv(4 * width, None, kernel_size=5),
            UnitActivation(activation),
            NTKConv(4 * width, 2 * width),
            UnitActivation(activation),
            *(InvertedResidual(*block, activation) for block in blocks),
            NTKConv(3 * width, 20 * width),
            UnitActivation(activation),
        )
        self.weight = nn.Parameter(torch.randn(1, 20 * width))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` to outputs `[B, 1]`."""
        features = self.layers(image).mean(dim=(2, 3))
        return F.linear(features, self.weight, self.bias) / features.shape[1]
