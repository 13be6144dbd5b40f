"""Residual networks for ImageNet, adapted to small images: a 3x3 convolution replaces the 7x7 stem and its pooling.

Source: the ResNet-34 of Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020,
arXiv 2007.00151; blocks of He et al., arXiv 1512.03385, table 1.
"""

from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

STAGES: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}


class CIFARStemResNet(ResNet):
    """ResNet-18, 34 or 50 whose first stage works at the full resolution. It maps normalised images to logits.

    Apart from the stem, the network equals torchvision's, including the names of its layers (`layer1` ... `layer4`,
    `fc`).

    Args:
        depth: number of layers: 18, 34 or 50.
        num_classes: number of logits, K.
        in_channels: channels of an image, C.
    """

    def __init__(self, depth: Literal[18, 34, 50], num_classes: int = 10, in_channels: int = 3) -> None:
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, got {depth}")
        super().__init__(*STAGES[depth], num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        # The CIFAR literature uses PyTorch's default initialisation, whereas torchvision's ResNet uses He's.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
