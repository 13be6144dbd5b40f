"""Interface, statistics and random numbers of mask noise."""

import zlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from datamodules.randomness.counter import sample_uniform

_MASKS_AT_ONCE = 64
"""Number of masks processed at once. Counting takes at least 40 bytes per pixel, too much for a whole dataset."""


class MaskNoise(Protocol):
    """Interface of mask noise, as used by DataModules."""

    seed: int | None
    """Seed of the noise. None means the seed of the DataModule."""

    def apply(self, mask: Tensor, num_classes: int, index: Tensor | None = None) -> Tensor:
        """Corrupt masks.

        Args:
            mask: true classes of pixels, `[N, H, W]`, uint8. 0 is background. Ignored pixels have the value 255.
                Ignored pixels are not changed, and no class grows into them. The argument is not modified.
            num_classes: number of classes including background, K.
            index: position of each mask in the dataset, `[N]`, int64. This position determines the random numbers of
                the mask. None means 0...N - 1.

        Returns:
            Given masks, `[N, H, W]`, uint8.

        Raises:
            ValueError: if no seed is set, or if the noise model is not defined for `num_classes`.
        """
        ...


class MaskNoiseStatistics(NamedTuple):
    """Pixel-wise error rates of the given (noisy) masks, pooled over all masks. Tensors are float64.

    Pixels that are ignored in the given or in the true mask are not counted.
    """

    changed: float
    """Fraction of all pixels whose given class is wrong."""
    lost: Tensor
    """For each class, fraction of its true pixels that are given a different class, `[K]`; NaN without true pixels."""
    false: Tensor
    """For each class, fraction of its given pixels whose true class is different, `[K]`; NaN without given pixels."""
    iou: Tensor
    """Intersection over union of the given and the true pixels of each class, `[K]`; NaN if a class has neither."""


def mask_noise_statistics(clean: Tensor, given: Tensor, num_classes: int) -> MaskNoiseStatistics:
    """Compute the error rates of given masks relative to the true masks.

    Args:
        clean: true classes, `[N, H, W]`, integers.
        given: given classes, `[N, H, W]`, integers.
        num_classes: number of classes including background, K.
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
    """Sample random numbers for each mask, `[N, count]` in [0, 1), as a function of (seed, kind, index).

    Raises:
        ValueError: if `seed` is None.
    """
    if seed is None:
        raise ValueError(f"seed of {kind} is not set: give it a seed, or set seed_everything on the command line")
    where = torch.arange(length) if index is None else index
    return sample_uniform(seed, 0, where, count, stream=zlib.crc32(kind.encode()))


def uniform_integers(uniform: Tensor, least: int, most: int) -> Tensor:
    """Map uniform numbers in [0, 1) to equally likely integers from `least` to `most`."""
    return least + (uniform * (most - least + 1)).long()
