"""Negatives: clips mixed with sequences of noise, in which small patches are turned by quarters of a circle.

    n = R_p((1 - M) v + M noise),     R_p turns each patch of each frame, with probability p, by k quarters,

k uniform on 0 ... 4, of which 0 and 4 turn nothing; p is uniform on 0, .1, ..., .9, one number for a step.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.randomness.shared_batches import sample_rows, shared_sample

TURNS = 5
PROBABILITIES = 10


def turned_patches(clip: Tensor, quarters: Tensor) -> Tensor:
    """Turn the patches of each frame in place, as `torch.rot90` does from height to width.

    Args:
        clip: `[B, T, C, H, W]`.
        quarters: `[B, T, R, S]`, int64: of each patch the quarters of a circle; patches are H/R x W/S pixels.

    Returns:
        `[B, T, C, H, W]`.

    Raises:
        ValueError: if the frames are no grid of square patches.
    """
    height, width = clip.shape[3:]
    rows, columns = quarters.shape[2:]
    side = height // rows
    if (side * rows, side * columns) != (height, width):
        raise ValueError(f"frames of {height} x {width} pixels are no grid of {rows} x {columns} square patches")
    first = torch.arange(side, device=clip.device)
    i, j = torch.meshgrid(first, first, indexing="ij")
    last = side - 1
    places = torch.stack([i * width + j, j * width + last - i, (last - i) * width + last - j, (last - j) * width + i])
    inside = places[quarters % 4]  # [B, T, R, S, side, side]: where in its patch each pixel comes from
    row, column = (side * torch.arange(count, device=clip.device) for count in (rows, columns))
    corner = row[:, None] * width + column
    source = (inside + corner[:, :, None, None]).transpose(3, 4).flatten(2)
    return clip.flatten(3).gather(3, source[:, :, None].expand(-1, -1, clip.shape[2], -1)).view_as(clip)


@dataclass(frozen=True)
class Negatives:
    """Say how negatives are made, and how much they count.

    Args:
        mixture: M, the part of the noise, in [0, 1].
        patch_size: side of a patch, in pixels.
        weight: of the distance between what becomes of a clip and of its negative.
        detach_positive: whether that distance moves the negative's result alone.

    Raises:
        ValueError: if an argument is out of range.
    """

    mixture: float = 0.5
    patch_size: int = 4
    weight: float = 0.5
    detach_positive: bool = False

    def __post_init__(self) -> None:
        within(0, 1, mixture=self.mixture)
        at_least(1, patch_size=self.patch_size)
        at_least(0, weight=self.weight)

    def of(self, clip: Tensor, noise: Tensor) -> Tensor:
        """Make negatives of clips and noise, both `[B, T, C, h, w]`; an element of noise serves as it is.

        Raises:
            ValueError: if clips and noise differ in shape, or sides are no multiples of the patch.
        """
        if noise.shape != clip.shape:
            raise ValueError(f"noise must have the shape of the clips, {list(clip.shape)}, got {list(noise.shape)}")
        if any(side % self.patch_size for side in clip.shape[3:]):
            raise ValueError(
                f"negatives.patch_size must divide the sides of {list(clip.shape[3:])}, got {self.patch_size}"
            )
        device = clip.device
        shape = (*clip.shape[:2], *(side // self.patch_size for side in clip.shape[3:]))
        p = shared_sample(
            lambda generator: torch.randint(PROBABILITIES, (), generator=generator, device=device), device
        )
        turned = sample_rows(torch.rand, shape, device) < p / PROBABILITIES
        quarters = sample_rows(partial(torch.randint, TURNS), shape, device) * turned
        return turned_patches((1 - self.mixture) * clip + self.mixture * noise, quarters)
