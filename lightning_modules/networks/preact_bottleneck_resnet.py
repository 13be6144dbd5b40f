"""Pre-activation residual networks with bottlenecks, for 32x32 images: three stages of n blocks; depth 9n + 2.

    y = s(x) + conv_1x1(a(conv_3x3(a(conv_1x1(a(x)))))),   a = ReLU(BN(x)),   s = identity, or a strided 1x1 convolution

The shortcut starts before the activation. After the last block, BN and ReLU are applied before the pooling.

Source: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4


class BottleneckBlock(nn.Module):
    """A bottleneck of 1x1, 3x3 and 1x1 convolutions, each preceded by BN and ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, EXPANSION * channels, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != EXPANSION * channels:
            self.shortcut = nn.Conv2d(in_channels, EXPANSION * channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.relu(self.bn1(x)))
        residual = self.conv2(F.relu(self.bn2(residual)))
        residual = self.conv3(F.relu(self.bn3(residual)))
        return residual + (x if self.shortcut is None else self.shortcut(x))


class PreActBottleneckResNet(nn.Module):
    """PreResNet-110, 164, ...: maps normalised images to logits.

    Args:
        depth: number of layers, 9n + 2.
        num_classes: number of logits, K.
        in_channels: channels of an image, C.
    """

    num_features = 64 * EXPANSION

    def __init__(self, depth: int = 110, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 9)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 9n + 2 (11, 20, 29, 56, 110, 164, ...), got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16 * EXPANSION, 32, blocks, stride=2)
        self.layer3 = self._stage(32 * EXPANSION, 64, blocks, stride=2)
        self.bn = nn.BatchNorm2d(self.num_features)
        self.linear = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        more = (BottleneckBlock(EXPANSION * channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(BottleneckBlock(in_channels, channels, stride), *more)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map normalised images `[B, C, H, W]` to pooled features `[B, 256]`."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(image))))
        return F.relu(self.bn(x)).mean(dim=(-2, -1))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.forward_features(image))
