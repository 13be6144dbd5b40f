"""Residual networks of depth 6n + 2 for 32x32 images: three stages of n blocks, with 16, 32 and 64 channels.

    y = ReLU(x + BN(conv(ReLU(BN(conv(x))))))

There are two kinds of shortcut for the blocks that halve the resolution. Shortcut A has no parameters: it takes every
second pixel along each axis, and sets the added channels to zero. Shortcut B is a strided 1x1 convolution with batch
normalisation.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385, sections 3.3 and 4.2.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


def shortcut_option_a(image: Tensor, out_channels: int) -> Tensor:
    """Apply the parameter-free shortcut, option A.

    Args:
        image: `[B, C, H, W]`.
        out_channels: number of output channels, at least C.

    Returns:
        Every second pixel, `[B, out_channels, ceil(H/2), ceil(W/2)]`. Channels of zeros are added, half of them before
        the input's channels and half after them.
    """
    missing = out_channels - image.shape[1]
    return F.pad(image[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.out_channels = out_channels
        self.stride = stride
        self.downsample: nn.Module | None = None
        if stride > 1 and shortcut == "B":
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1:
            x = shortcut_option_a(x, self.out_channels)
        return F.relu(x + residual)


class CIFARResNet(nn.Module):
    """ResNet-20, 32, 44, 56, 110, ...: maps normalised images to logits.

    Args:
        depth: number of layers, 6n + 2.
        num_classes: number of logits, K.
        in_channels: channels of an image, C.
        shortcut: `A`, used by He et al. on CIFAR-10, or `B`, used in the ResNet-110 of the randomised-smoothing
            literature.
    """

    num_features = 64

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, shortcut: Literal["A", "B"] = "A"
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1, shortcut=shortcut)
        self.layer2 = self._stage(16, 32, blocks, stride=2, shortcut=shortcut)
        self.layer3 = self._stage(32, 64, blocks, stride=2, shortcut=shortcut)
        self.linear = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(
        in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Literal["A", "B"]
    ) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))

    def forward_features(self, image: Tensor) -> Tensor:
        """Map normalised images `[B, C, H, W]` to pooled features `[B, 64]`."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean(dim=(-2, -1))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.forward_features(image))
