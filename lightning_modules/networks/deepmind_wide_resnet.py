"""The wide residual networks of published adversarially robust CIFAR classifiers.

    a = act(BN(x)),   y = s + conv(act(BN(conv(a)))).

The shortcut s is x inside a stage. Where the number of channels changes, s is a (strided) 1x1 convolution of a. Unlike
`wide_resnet.py`, this file allows activations other than ReLU, and pads strided convolutions only below and to the
right. Layers have the same names as in the published state dicts, so the published weights can be loaded.

Source: Gowal, Qin, Uesato, Mann and Kohli, Uncovering the Limits of Adversarial Training against Norm-Bounded
Adversarial Examples, arXiv 2010.03593; Wang et al., Better Diffusion Models Further Improve Adversarial Training, ICML
2023, arXiv 2302.04638, with SiLU.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


class DeepMindWideBlock(nn.Module):
    """Two 3x3 convolutions, each preceded by BN and the activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.conv_0 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=0, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(out_channels)
        self.conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.activation = activation()
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.activation(self.batchnorm_0(x))
        residual = self.conv_0(F.pad(activation, self.padding))
        residual = self.conv_1(self.activation(self.batchnorm_1(residual)))
        return residual + (x if self.shortcut is None else self.shortcut(activation))


class Stage(nn.Module):
    """A stage of blocks of equal width."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, stride: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        first = DeepMindWideBlock(in_channels, out_channels, stride, activation)
        rest = (DeepMindWideBlock(out_channels, out_channels, 1, activation) for _ in range(blocks - 1))
        self.block = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DeepMindWideResNet(nn.Module):
    """The wide residual network WRN-depth-width: map normalised images of 32 x 32 pixels to logits.

    Args:
        depth: number of layers, 6n + 4.
        width: widening factor.
        num_classes: number of logits, K.
        activation: `relu` or `silu`, which is also called Swish.
    """

    def __init__(
        self, depth: int = 70, width: int = 16, num_classes: int = 10, activation: Literal["relu", "silu"] = "silu"
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, 70, ...), got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        kind = ACTIVATIONS[activation]
        self.num_features = 64 * width
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            Stage(16, 16 * width, blocks, 1, kind),
            Stage(16 * width, 32 * width, blocks, 2, kind),
            Stage(32 * width, 64 * width, blocks, 2, kind),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.activation = kind()
        self.logits = nn.Linear(64 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.activation(self.batchnorm(self.layer(self.init_conv(image))))
        return self.logits(x.mean(dim=(-2, -1)))
