"""The interface of mask noise, its statistics, and the random numbers of every kind."""

import zlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from datamodules.randomness.counter import sample_uniform

_MASKS_AT_ONCE = 64
"""Counting a pixel takes 40 bytes and more: of all masks of a set at once, tens of gigabytes."""


class MaskNoise(Protocol):
    """A kind of mask noise, as a DataModule takes it."""

    seed: int | None
    """Random seed of the noise; None takes the seed of the data."""

    def apply(self, mask: Tensor, num_classes: int, index: Tensor | None = None) -> Tensor:
        """Make masks wrong.

        Args:
            mask: `[N, H, W]`, uint8, the true categories: 0 is the background; ignored pixels, 255, stay so, and
                no category grows into them. Not modified.
            num_classes: number of categories, K, with the background.
            index: position of each mask in its set, `[N]`, int64, by which its numbers are drawn; None takes 0...N - 1.

        Returns:
            `[N, H, W]`, uint8.

        Raises:
            ValueError: if the kind has no seed or does not fit `num_classes`.
        """
        ...


class MaskNoiseStatistics(NamedTuple):
    """The errors of given masks, from pixels pooled over all of them; pixels that either ignores do not count."""

    changed: float
    """Share of all pixels whose category is another one."""
    lost: Tensor
    """`[K]`, float64: share of the pixels truly of a category that are given as another; nan without any."""
    false: Tensor
    """`[K]`, float64: share of the pixels given as a category that are truly of another; nan without any."""
    iou: Tensor
    """`[K]`, float64: intersection over union of the given and the true pixels of a category; nan without any."""


def mask_noise_statistics(clean: Tensor, given: Tensor, num_classes: int) -> MaskNoiseStatistics:
    """Compare given masks with true ones.

    Args:
        clean: `[N, H, W]`, integers: true categories.
        given: `[N, H, W]`, integers: given categories.
        num_classes: number of categories, K.
    """
    if clean.shape != given.shape:
        raise ValueError(f"clean and given must have the same shape, got {list(clean.shape)} and {list(given.shape)}")
    pairs = torch.zeros(num_classes**2, dtype=torch.int64, device=clean.device)
    for true, other in zip(clean.split(_MASKS_AT_ONCE), given.split(_MASKS_AT_ONCE), strict=True):
        known = (true < num_classes) & (other < num_classes)
        pairs += (true.long() * num_classes + other)[known].bincount(minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes).double()
    both, true, labelled = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    return MaskNoiseStatistics(
        float(1 - both.sum() / confusion.sum()),
        1 - both / true,
        1 - both / labelled,
        both / (true + labelled - both),
    )


def uniform_of_each(seed: int | None, kind: str, index: Tensor | None, length: int, count: int) -> Tensor:
    """Draw the numbers of one kind of noise for each mask, `[N, count]` in [0, 1), by (seed, kind, index) alone.

    Raises:
        ValueError: if the seed is None, as nobody has filled it.
    """
    if seed is None:
        raise ValueError(f"seed of {kind} is not set: give it a seed, or set seed_everything on the command line")
    where = torch.arange(length) if index is None else index
    return sample_uniform(seed, 0, where, count, stream=zlib.crc32(kind.encode()))


def whole_numbers(uniform: Tensor, least: int, most: int) -> Tensor:
    """Turn numbers in [0, 1) into whole numbers from `least` to `most`, all equally likely."""
    return least + (uniform * (most - least + 1)).long()
