"""The 2-D U-Net used in papers about noisy masks of medical slices.

Encoder: a double convolution [3x3 convolution, BN, ReLU] x 2 at each level, with 2x2 max-pooling between levels.
Decoder: the deeper features are upsampled twofold bilinearly (corners aligned) and concatenated with the features of
the level above. A double convolution then reduces the number of channels to that of the next level; optionally, its
first convolution halves the channels. A final 1x1 convolution outputs the logits. The network has no transposed
convolutions.

Source: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
arXiv 1505.04597; the padded bilinear variant with BN is that of the SegTHOR experiments of ADELE (Liu et al., CVPR
2022, arXiv 2110.03740; the authors' code).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within


def double_convolution(in_channels: int, between: int, out_channels: int) -> nn.Sequential:
    """Build two 3x3 convolutions that preserve the size, each followed by BN and ReLU."""
    layers: list[nn.Module] = []
    for before, after in ((in_channels, between), (between, out_channels)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Map images `[B, C, H, W]` of any size to logits `[B, K, H, W]`.

    `H` and `W` must be at least 2^(levels - 1), so that at least one pixel remains after the poolings. If a pooling
    drops an odd row or column, the decoder pads with zeros.

    Args:
        in_channels: channels of an image, C.
        num_classes: number of pixel categories, K.
        widths: channels of each level, from full resolution down.
        halved: whether the first convolution of each double convolution in the decoder halves the number of channels;
            if false, it outputs as many channels as the next level has.
        dropout: probability of dropout before each double convolution of the decoder, in [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        halved: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        within(0, 1, "[)", dropout=dropout)
        widths = list(widths)
        if len(widths) < 2:
            raise ValueError(f"widths must have at least two entries, one per level, got {widths}")
        if min(widths) < 1:
            raise ValueError(f"widths must be at least 1, got {widths}")
        self.num_features = widths[0]
        self.dropout = dropout
        self.down = nn.ModuleList(
            double_convolution(before, width, width)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList()
        deep = widths[-1]
        for level in range(len(widths) - 2, -1, -1):
            joined, out = widths[level] + deep, widths[max(level - 1, 0)]
            self.up.append(double_convolution(joined, joined // 2 if halved else out, out))
            deep = out
        self.last = nn.Conv2d(deep, num_classes, 1)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` to the features of each pixel before the logits, `[B, widths[0], H, W]`."""
        levels = []
        x = image
        for depth, convolution in enumerate(self.down):
            x = convolution(F.max_pool2d(x, 2) if depth else x)
            levels.append(x)
        for skip, convolution in zip(reversed(levels[:-1]), self.up, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            if torch.compiler.is_exporting() or rows or columns:  # an exported graph always pads, possibly by 0 pixels
                x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
            x = convolution(F.dropout(torch.cat([skip, x], dim=1), self.dropout, self.training))
        return x

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.forward_features(image))
