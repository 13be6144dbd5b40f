"""Negatives: clips mixed with noise sequences.

A negative n is a mixture of a clip v and a noise sequence, in which small patches are rotated by multiples of 90
degrees.

    n = R_p((1 - M) v + M noise).

With probability p, R_p rotates a patch of a frame by k times 90 degrees, where k is uniform on 0 ... 4 (k = 0 and k = 4
leave the patch unchanged). The probability p is sampled once per step, uniformly from 0, 0.1, ..., 0.9.
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
    """Rotate each patch of each frame in place, in the direction in which `torch.rot90` turns height into width.

    Args:
        clip: clips `[B, T, C, H, W]`.
        quarters: rotation of each patch in units of 90 degrees, `[B, T, R, S]`, int64; patches have H/R x W/S pixels.

    Returns:
        `[B, T, C, H, W]`.

    Raises:
        ValueError: if the frames are not divisible into R x S square patches.
    """
    height, width = clip.shape[3:]
    rows, columns = quarters.shape[2:]
    side = height // rows
    if (side * rows, side * columns) != (height, width):
        raise ValueError(f"frames of {height} x {width} pixels do not divide into {rows} x {columns} square patches")
    first = torch.arange(side, device=clip.device)
    i, j = torch.meshgrid(first, first, indexing="ij")
    last = side - 1
    places = torch.stack([i * width + j, j * width + last - i, (last - i) * width + last - j, (last - j) * width + i])
    inside = places[quarters % 4]  # [B, T, R, S, side, side]: source position of each pixel within its patch
    row, column = (side * torch.arange(count, device=clip.device) for count in (rows, columns))
    corner = row[:, None] * width + column
    source = (inside + corner[:, :, None, None]).transpose(3, 4).flatten(2)
    return clip.flatten(3).gather(3, source[:, :, None].expand(-1, -1, clip.shape[2], -1)).view_as(clip)


@dataclass(frozen=True)
class Negatives:
    """Settings of NegVSR's negatives and of their loss.

    Args:
        mixture: weight M of the noise in the mixture, in [0, 1].
        patch_size: side of a rotated patch, in pixels.
        weight: weight of the loss term that compares the output for a clip with the output for its negative.
        detach_positive: whether to stop this term's gradient with respect to the output for the original clip.

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
        """Compute negatives from clips and noise, both `[B, T, C, h, w]`.

        The noise is used unchanged: its mean is not subtracted.

        Raises:
            ValueError: if clips and noise differ in shape, or if the height or the width of a frame is not divisible by
                the patch size.
        """
        if noise.shape != clip.shape:
            raise ValueError(f"noise must have the shape of the clips, {list(clip.shape)}, got {list(noise.shape)}")
        if any(side % self.patch_size for side in clip.shape[3:]):
            raise ValueError(
                f"frame sides {list(clip.shape[3:])} must be divisible by negatives.patch_size, got {self.patch_size}"
            )
        device = clip.device
        shape = (*clip.shape[:2], *(side // self.patch_size for side in clip.shape[3:]))
        p = shared_sample(
            lambda generator: torch.randint(PROBABILITIES, (), generator=generator, device=device), device
        )
        turned = sample_rows(torch.rand, shape, device) < p / PROBABILITIES
        quarters = sample_rows(partial(torch.randint, TURNS), shape, device) * turned
        return turned_patches((1 - self.mixture) * clip + self.mixture * noise, quarters)
