"""Wide residual networks: three stages of n pre-activation blocks with 16k, 32k and 64k channels, depth 6n + 4.

    a = ReLU(BN(x)),   y = s + conv(dropout(ReLU(BN(conv(a))))).

The shortcut s is x inside a stage. Where the number of channels changes, s is a (strided) 1x1 convolution of a.

Source: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146, table 1 and section 2.4.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each preceded by BN and ReLU, with dropout between them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.bn1(x))
        residual = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(activation)))))
        return residual + (x if self.shortcut is None else self.shortcut(activation))


class WideResNet(nn.Module):
    """WRN-depth-width: maps normalised images to logits.

    Args:
        depth: number of layers, 6n + 4.
        width: widening factor k of the stages.
        num_classes: number of logits, K.
        dropout: probability of dropping an activation between the two convolutions of a block.
        in_channels: channels of an image, C.
    """

    def __init__(
        self, depth: int = 28, width: int = 10, num_classes: int = 10, dropout: float = 0.0, in_channels: int = 3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, 40, ...), got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.num_features = 64 * width
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = self._stage(16, 16 * width, blocks, stride=1, dropout=dropout)
        self.layer2 = self._stage(16 * width, 32 * width, blocks, stride=2, dropout=dropout)
        self.layer3 = self._stage(32 * width, 64 * width, blocks, stride=2, dropout=dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.linear = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
        first = WideBlock(in_channels, out_channels, stride, dropout)
        return nn.Sequential(first, *(WideBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1)))

    def forward_features(self, image: Tensor) -> Tensor:
        """Map normalised images `[B, C, H, W]` to pooled features `[B, 64 k]`."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(image))))
        return F.relu(self.bn(x)).mean(dim=(-2, -1))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.forward_features(image))
