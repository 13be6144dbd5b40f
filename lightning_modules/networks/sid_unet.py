"""The U-Net of See-in-the-Dark, used by most methods for raw low-light images.

Encoder: two 3x3 convolutions with leaky ReLUs of slope 0.2 at each level, with 2x2 max-pooling between levels.
Decoder: at each level, the deeper features are upsampled by a transposed convolution, concatenated with the encoder's
features of the same size, and convolved twice. A final 1x1 convolution outputs the image. The network has no
normalisation layers.

Source: Chen, Chen, Xu and Koltun, Learning to See in the Dark, CVPR 2018, arXiv 1805.01934; input and output are packed
raw images, without the final pixel shuffle, as in the code of Wei et al., TPAMI 2022, arXiv 2108.02158. Wei's code
requires image sides that are multiples of the stride. Here, images of other sizes are padded by reflection, and the
output is cropped.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.tiled import apply_padded


def two_convolutions(before: int, after: int) -> nn.Sequential:
    """Build two size-preserving 3x3 convolutions, each with a leaky ReLU of slope 0.2."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(after, after, 3, padding=1),
        nn.LeakyReLU(0.2),
    )  # fmt: skip


class SIDUNet(nn.Module):
    """Map images `[B, C, H, W]` to unbounded images of the same shape.

    The initial weights are PyTorch's. With the paper's widths and four channels, there are 7,760,484 parameters.

    Args:
        channels: channels of an image, C: 4 for packed raw images.
        widths: number of feature channels of each level, from the full to the lowest resolution.
    """

    def __init__(self, channels: int = 4, widths: Sequence[int] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        widths = list(widths)
        if len(widths) < 2:
            raise ValueError(f"widths must have at least two entries, one per level, got {widths}")
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(two_convolutions(before, after) for before, after in pairwise([channels, *widths]))
        steps = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(deep, width, 2, stride=2) for deep, width in steps)
        self.up = nn.ModuleList(two_convolutions(2 * width, width) for _, width in steps)
        self.last = nn.Conv2d(widths[0], channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return apply_padded(self._whole, image, self.stride)

    def _whole(self, image: Tensor) -> Tensor:
        """Apply the network to images whose height and width are multiples of the stride."""
        levels = [self.down[0](image)]
        for convolutions in self.down[1:]:
            levels.append(convolutions(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for enlarge, convolutions in zip(self.enlarge, self.up, strict=True):
            x = convolutions(torch.cat([enlarge(x), levels.pop()], dim=1))
        return self.last(x)
