"""Mask noise that rotates, scales and shifts masks relative to the image, independently for each class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise.interface import uniform_of_each

_MASKS_AT_ONCE = 64


class Affine:
    """Rotate, scale and shift the mask of each class, relative to the centre of mass of this class.

    The angle, the relative change of length and the shift are each sampled uniformly between minus and plus the
    corresponding maximum, independently for each image and class. Where transformed classes overlap, the higher class
    number is kept. Pixels that no class covers become background. Parts that move out of the image are lost. If all
    three maxima are 0, masks are unchanged.

    Args:
        degrees: largest rotation angle, in degrees, in [0, 180].
        scale: largest relative change of length, in [0, 1). For example, 0.2 means factors from 0.8 to 1.2.
        pixels: largest shift along rows and along columns, in pixels.
        seed: seed of the noise. None means the seed of the DataModule.
    """

    def __init__(self, degrees: float = 10.0, scale: float = 0.1, pixels: float = 2.0, seed: int | None = None) -> None:
        within(0, 180, degrees=degrees)
        within(0, 1, "[)", scale=scale)
        at_least(0, pixels=pixels, seed=seed)
        self.degrees = degrees
        self.scale = scale
        self.pixels = pixels
        self.seed = seed

    def apply(self, mask: Tensor, num_classes: int, index: Tensor | None = None) -> Tensor:
        uniform = uniform_of_each(self.seed, type(self).__name__, index, len(mask), count=4 * (num_classes - 1))
        drawn = (2 * uniform.double() - 1).view(len(mask), num_classes - 1, 4)
        drawn = drawn * torch.tensor([math.radians(self.degrees), self.scale, self.pixels, self.pixels]).double()
        if not drawn.any():
            return mask.clone()
        parts = zip(mask.split(_MASKS_AT_ONCE), drawn.split(_MASKS_AT_ONCE), strict=True)
        return torch.cat([_move(part, numbers) for part, numbers in parts])


def _move(mask: Tensor, drawn: Tensor) -> Tensor:
    """Transform each class of masks, `[N, H, W]`, by the random values in `drawn`.

    The values `[N, K - 1, 4]` are the angle, the relative change of length, the row shift and the column shift of each
    class other than the background.
    """
    height, width = mask.shape[1:]
    row = torch.arange(height, dtype=torch.float64)[:, None]
    column = torch.arange(width, dtype=torch.float64)
    result = torch.where(mask == IGNORED, mask, 0)
    for category in range(1, drawn.shape[1] + 1):
        member = (mask == category).double()
        angle, growth, down, right = drawn[:, category - 1, :, None, None].unbind(dim=1)
        total = member.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        centre_row = (member * row).sum(dim=(1, 2), keepdim=True) / total
        centre_column = (member * column).sum(dim=(1, 2), keepdim=True) / total
        # To find the source position of a result pixel, undo the shift, then undo the rotation and scaling about the
        # centre.
        below, beside = row - centre_row - down, column - centre_column - right
        from_row = (below * angle.cos() - beside * angle.sin()) / (1 + growth) + centre_row
        from_column = (below * angle.sin() + beside * angle.cos()) / (1 + growth) + centre_column
        grid = torch.stack([_normalise(from_column, width), _normalise(from_row, height)], dim=-1)
        moved = F.grid_sample(member[:, None], grid, mode="nearest", align_corners=False)[:, 0] > 0
        result = torch.where(moved & (mask != IGNORED), category, result)
    return result


def _normalise(place: Tensor, length: int) -> Tensor:
    """Convert pixel coordinates to those of `grid_sample`, which are -1 and 1 at the outer edges of the image."""
    return (2 * place + 1) / length - 1
