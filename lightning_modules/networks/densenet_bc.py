"""Densely connected networks of three blocks, with bottlenecks and compression, for images of 32 x 32 pixels.

    x_l = [x_{l-1}, conv3x3(ReLU(BN(conv1x1(ReLU(BN(x_{l-1}))))))],    transition(x) = pool(conv1x1(ReLU(BN(x))))

Each layer of a block adds k channels through a bottleneck of 4k channels. Each of the two transitions between blocks
keeps only a fraction of the channels, and halves height and width. With depth 6n + 4, each block has n layers.

Source: Huang, Liu, van der Maaten and Weinberger, Densely Connected Convolutional Networks, CVPR 2017, arXiv
1608.06993, section 3; initialised as in section 4.2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BottleneckLayer(nn.Module):
    """Compute `growth` new channels and append them to the channels of the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(inside)))], dim=1)


class Transition(nn.Module):
    """Reduce the number of channels by a 1x1 convolution, and the resolution by averaging over 2 x 2 pixels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNetBC(nn.Module):
    """DenseNet-BC-100, 190, 250, ...: maps normalised images to logits.

    The layers are `conv1`, `block1`, `transition1`, `block2`, `transition2`, `block3`, `bn`, `relu` and `linear`.

    Args:
        depth: number of layers, 6n + 4.
        num_classes: number of logits, K.
        growth: number k of channels that each bottleneck layer adds.
        reduction: fraction of the channels that a transition keeps, in (0, 1].
        in_channels: channels of an image, C.
    """

    def __init__(
        self, depth: int = 100, num_classes: int = 10, growth: int = 12, reduction: float = 0.5, in_channels: int = 3
    ) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 40, 100, 190, 250, ...), got {depth}")
        if growth < 1:
            raise ValueError(f"growth must be at least 1, got {growth}")
        if not 0 < reduction <= 1:
            raise ValueError(f"reduction must be in (0, 1], got {reduction}")
        channels = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.block1 = self._block(channels, growth, layers)
        channels += layers * growth
        self.transition1 = Transition(channels, math.floor(reduction * channels))
        channels = math.floor(reduction * channels)
        self.block2 = self._block(channels, growth, layers)
        channels += layers * growth
        self.transition2 = Transition(channels, math.floor(reduction * channels))
        channels = math.floor(reduction * channels)
        self.block3 = self._block(channels, growth, layers)
        self.num_features = channels + layers * growth
        self.bn = nn.BatchNorm2d(self.num_features)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def _block(in_channels: int, growth: int, layers: int) -> nn.Sequential:
        return nn.Sequential(*(BottleneckLayer(in_channels + number * growth, growth) for number in range(layers)))

    def forward(self, image: Tensor) -> Tensor:
        x = self.transition1(self.block1(self.conv1(image)))
        x = self.block3(self.transition2(self.block2(x)))
        return self.linear(self.relu(self.bn(x)).mean(dim=(-2, -1)))
