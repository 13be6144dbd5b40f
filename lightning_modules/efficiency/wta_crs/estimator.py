"""Select the kept column-row pairs of a product, and their weights.

The product of G^T and H is a sum over M pairs, sum_i g_i h_i^T. Let p be probabilities, in descending order p_(1),
p_(2), .... WTA-CRS keeps k pairs: the set C of the c most probable pairs, and k - c pairs that are sampled from the
others with replacement,

    sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,     P_C = sum_{i in C} p_i.

The estimate is unbiased for every C. The estimate has minimal variance if c minimises (1 - P_C) / (k - c), 0 <= c < k.
c = 0 gives plain column-row sampling (CRS). All computations stay on the device, and shapes depend only on M and k.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_modules.full_precision import at_least_float32

Estimator = Literal["wta_crs", "crs", "top_k"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
LEAST_PAIRS = 10
"""Minimum budget, as in the authors' configuration."""
FLOOR = 1e-8
"""Added before normalising probabilities, so that every pair can be sampled; value of the authors' code."""


def budget(num_pairs: int, ratio: float) -> int:
    """Compute the number k of pairs to keep: a fraction of M, but at least ten and at most M."""
    return min(max(int(num_pairs * ratio), LEAST_PAIRS), num_pairs)


def pair_probabilities(rows: Tensor, gradient_norms: Tensor | None) -> Tensor:
    """Compute probabilities p, proportional to the norm of row h times the estimated norm of row g of each pair.

    Args:
        rows: H, `[..., M, d]`, in any precision.
        gradient_norms: `[..., M]`, estimates of the norms of g; None treats all norms as equal.

    Returns:
        `[..., M]`, with sum 1, in single precision or better.
    """
    norms = torch.linalg.vector_norm(at_least_float32(rows), dim=-1)
    if gradient_norms is not None:
        norms = norms * gradient_norms
    norms = norms + FLOOR
    return norms / norms.sum(dim=-1, keepdim=True)


def num_winners(ascending: Tensor, k: int) -> Tensor:
    """Compute c, the number of pairs kept with certainty, which minimises (1 - P_C) / (k - c).

    Args:
        ascending: sums of the smallest probabilities, `[R, M]`; column j is the sum of the j + 1 smallest ones.
        k: number of kept pairs, below M.

    Returns:
        A scalar, int64, in 0 ... k - 1. If there are several rows, they share the c that minimises the mean of their
        objectives.
    """
    rest = ascending.flip(-1)[:, :k]  # 1 - P_C for c = 0 ... k - 1
    return (rest / (k - torch.arange(k, device=rest.device))).mean(dim=0).argmin()


def chosen_pairs(
    probability: Tensor, k: int, uniform: Tensor, estimator: Estimator = "wta_crs"
) -> tuple[Tensor, Tensor]:
    """Sample k of M pairs, and compute their weights.

    Args:
        probability: p, `[R, M]`, of R products with a common number of winners.
        k: number of kept pairs, below M.
        uniform: uniform random numbers in [0, 1), `[R, k]`; the first c of each row are unused.
        estimator: wta_crs, crs (no winners) or top_k (the most probable pairs with weight 1; biased).

    Returns:
        Positions of the pairs, `[R, k]`, int64, with the winners first; and the weights of the pairs, `[R, k]`.
    """
    num_pairs = probability.shape[-1]
    sorted_p, order = probability.sort(dim=-1)
    if estimator == "top_k":
        return order.flip(-1)[:, :k], torch.ones_like(uniform)
    sums = sorted_p.cumsum(dim=-1)
    winners = num_winners(sums, k) if estimator == "wta_crs" else torch.zeros((), dtype=torch.int64, device=sums.device)
    last = (num_pairs - 1 - winners).expand(len(sums), 1)  # in ascending order, the last pair that may be sampled
    rest = sums.gather(-1, last)
    drawn = torch.searchsorted(sums, uniform * rest, right=True).minimum(last)
    weight = rest / ((k - winners) * sorted_p.gather(-1, drawn))
    place = torch.arange(k, device=sums.device).expand_as(drawn)
    wins = place < winners
    position = order.gather(-1, torch.where(wins, num_pairs - 1 - place, drawn))
    # With a zero remainder there is nothing to sample: its pairs have weight 0.
    return position, torch.where(wins, 1, torch.where(rest > 0, weight, 0))
