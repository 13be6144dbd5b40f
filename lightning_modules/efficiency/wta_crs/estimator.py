"""Selection of the column-row pairs of a matrix product that are kept, and computation of their weights.

The product of G^T and H is a sum over M pairs, sum_i g_i h_i^T, and each pair i has a probability p_i. WTA-CRS keeps k
pairs: the set C of the c most probable pairs (winners), and k - c pairs that are sampled from the others with
replacement:

    sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,     P_C = sum_{i in C} p_i.

The estimate is unbiased for every C. It has minimum variance if c minimises (1 - P_C) / (k - c) over 0 <= c < k. With c
= 0, the method is plain column-row sampling (CRS). All computations stay on the device, and shapes depend only on M and
k.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_modules.full_precision import at_least_float32

Estimator = Literal["wta_crs", "crs", "top_k"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
LEAST_PAIRS = 10
"""Minimum number of kept pairs, as in the authors' configuration."""
FLOOR = 1e-8
"""Value added to probabilities before they are normalised, so that any pair can be sampled, as in the authors' code."""


def budget(num_pairs: int, ratio: float) -> int:
    """Compute the number k of kept pairs: a fraction `ratio` of the M pairs, but at least ten and at most M."""
    return min(max(int(num_pairs * ratio), LEAST_PAIRS), num_pairs)


def pair_probabilities(rows: Tensor, gradient_norms: Tensor | None) -> Tensor:
    """Compute each pair's probability p, proportional to the norm of row h times the estimated norm of row g.

    Args:
        rows: rows h of H, `[..., M, d]`, in any precision.
        gradient_norms: estimates of the norms of the rows g, `[..., M]`; None means that all norms are treated as
            equal.

    Returns:
        The probabilities, `[..., M]`, in single precision or above; they sum to 1.
    """
    norms = torch.linalg.vector_norm(at_least_float32(rows), dim=-1)
    if gradient_norms is not None:
        norms = norms * gradient_norms
    norms = norms + FLOOR
    return norms / norms.sum(dim=-1, keepdim=True)


def num_winners(ascending: Tensor, k: int) -> Tensor:
    """Compute the number c of winners, which are kept with certainty, by minimising (1 - P_C) / (k - c).

    Args:
        ascending: sums of the smallest probabilities, `[R, M]`; column j contains the sum of the j + 1 smallest
            probabilities.
        k: number of kept pairs, below M.

    Returns:
        The number c, an int64 scalar in 0 ... k - 1. All R rows use the same c, which minimises the mean of (1 - P_C) /
        (k - c) over the rows.
    """
    rest = ascending.flip(-1)[:, :k]  # 1 - P_C for c = 0 ... k - 1
    return (rest / (k - torch.arange(k, device=rest.device))).mean(dim=0).argmin()


def chosen_pairs(
    probability: Tensor, k: int, uniform: Tensor, estimator: Estimator = "wta_crs"
) -> tuple[Tensor, Tensor]:
    """Sample k of M pairs, and compute their weights.

    Args:
        probability: probabilities p of the pairs of R matrix products, `[R, M]`; all products have the same number c of
            winners.
        k: number of kept pairs, below M.
        uniform: uniform random numbers in [0, 1), `[R, k]`; the first c numbers of each row are not used.
        estimator: wta_crs, crs (without winners), or top_k (the most probable pairs with weight 1, which is biased).

    Returns:
        The positions of the kept pairs, `[R, k]`, int64, winners first, and the weights of these pairs, `[R, k]`.
    """
    num_pairs = probability.shape[-1]
    sorted_p, order = probability.sort(dim=-1)
    if estimator == "top_k":
        return order.flip(-1)[:, :k], torch.ones_like(uniform)
    sums = sorted_p.cumsum(dim=-1)
    winners = num_winners(sums, k) if estimator == "wta_crs" else torch.zeros((), dtype=torch.int64, device=sums.device)
    last = (num_pairs - 1 - winners).expand(len(sums), 1)  # last pair, in ascending order, that may be sampled
    rest = sums.gather(-1, last)
    drawn = torch.searchsorted(sums, uniform * rest, right=True).minimum(last)
    weight = rest / ((k - winners) * sorted_p.gather(-1, drawn))
    place = torch.arange(k, device=sums.device).expand_as(drawn)
    wins = place < winners
    position = order.gather(-1, torch.where(wins, num_pairs - 1 - place, drawn))
    # If 1 - P_C is zero, all other pairs have probability 0, and the sampled pairs receive weight 0.
    return position, torch.where(wins, 1, torch.where(rest > 0, weight, 0))
