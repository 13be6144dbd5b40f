"""Mixing of training examples (Zhang et al., mixup, ICLR 2018, arXiv 1710.09412), as the noisy-label methods use it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Mixing(NamedTuple):
    """Each example i is mixed with example `partner[i]`; its own part is `weight`."""

    weight: float
    """l in [1/2, 1]: the example keeps the larger part."""
    partner: Tensor
    """`[B]`, int64: a permutation of the batch."""

    def __call__(self, value: Tensor) -> Tensor:
        """l value + (1 - l) value[partner], of `[B, ...]`."""
        return self.weight * value + (1 - self.weight) * value[self.partner]


def draw_mixing(batch_size: int, alpha: float, device: torch.device | str) -> Mixing:
    """Draws l ~ Beta(alpha, alpha), folded to l >= 1/2, and a permutation.

    Args:
        batch_size: B.
        alpha: both parameters of the Beta distribution; 0 leaves the examples unmixed.
        device: where the permutation is drawn. l is drawn on the host, so that no step waits for it.
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample()) if alpha > 0 else 1.0
    return Mixing(max(weight, 1 - weight), torch.randperm(batch_size, device=device))
