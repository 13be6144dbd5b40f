"""The variant of the pre-activation ResNet-18 that is used in papers about label noise.

    a = ReLU(BN(x)),   y = s(a) + conv(ReLU(BN(conv(a)))),   s = identity, or a strided 1x1 convolution.

The network differs from the original pre-activation ResNet in three respects: BN and ReLU follow the network's first
convolution, every block applies its shortcut to the activated input a, and there is no BN-ReLU before the final
pooling.

Source: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027; the variant is that of ELR+
(Liu et al., NeurIPS 2020, arXiv 2007.00151) and of LSA (Albert et al., ECCV 2024).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each preceded by BN and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(activation))))
        return self.shortcut(activation) + residual


class PreActResNet18(nn.Module):
    """Map normalised images to logits.

    Args:
        num_classes: number of logits, K.
        in_channels: channels of an image, C.
    """

    num_features = 512

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(PreActBlock(64, 64, stride=1), PreActBlock(64, 64, stride=1))
        self.layer2 = nn.Sequential(PreActBlock(64, 128, stride=2), PreActBlock(128, 128, stride=1))
        self.layer3 = nn.Sequential(PreActBlock(128, 256, stride=2), PreActBlock(256, 256, stride=1))
        self.layer4 = nn.Sequential(PreActBlock(256, 512, stride=2), PreActBlock(512, 512, stride=1))
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map normalised images `[B, C, H, W]` to pooled features `[B, 512]`."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(-2, -1))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.forward_features(image))
