"""Choose the column-row pairs of a product that are kept, and their weights.

The product of G^T and H is a sum over M pairs, sum_i g_i h_i^T. Of probabilities p, in descending order p_(1), p_(2),
..., WTA-CRS keeps k pairs: the c most probable ones, C, as they are, and k - c that are drawn from the others with
replacement,

    sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,     P_C = sum_{i in C} p_i,

which is unbiased for every C. Its variance is least where c minimises (1 - P_C) / (k - c), 0 <= c < k. With c = 0 it is
plain column-row sampling (CRS). Everything here stays on the device, and its shapes follow from M and k alone.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_modules.full_precision import at_least_float32

Estimator = Literal["wta_crs", "crs", "top_k"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
LEAST_PAIRS = 10
"""The budget's lower end, as in the authors' configuration."""
FLOOR = 1e-8
"""Added to what probabilities are proportional to, so that every pair can be drawn; that of the authors' code."""


def budget(num_pairs: int, ratio: float) -> int:
    """Count the pairs that are kept, k of M: a part of them, at least ten, at most all."""
    return min(max(int(num_pairs * ratio), LEAST_PAIRS), num_pairs)


def pair_probabilities(rows: Tensor, gradient_norms: Tensor | None) -> Tensor:
    """Compute p, proportional to the norm of each row h times what is known of the norm of its partner g.

    Args:
        rows: H, `[..., M, d]`, in any precision.
        gradient_norms: `[..., M]`, estimates of the norms of g; None where nothing is known, which counts them equal.

    Returns:
        `[..., M]`, which sums to 1, in single precision at least.
    """
    norms = torch.linalg.vector_norm(at_least_float32(rows), dim=-1)
    if gradient_norms is not None:
        norms = norms * gradient_norms
    norms = norms + FLOOR
    return norms / norms.sum(dim=-1, keepdim=True)


def num_winners(ascending: Tensor, k: int) -> Tensor:
    """Find c, the number of pairs that are kept for certain: the argument of the least (1 - P_C) / (k - c).

    Args:
        ascending: sums of the smallest probabilities, `[R, M]`: column j sums j + 1 of them.
        k: pairs that are kept, below M.

    Returns:
        A number, int64, in 0 ... k - 1; of several rows the scores are averaged, so that all have one c.
    """
    rest = ascending.flip(-1)[:, :k]  # 1 - P_C for c = 0 ... k - 1
    return (rest / (k - torch.arange(k, device=rest.device))).mean(dim=0).argmin()


def chosen_pairs(
    probability: Tensor, k: int, uniform: Tensor, estimator: Estimator = "wta_crs"
) -> tuple[Tensor, Tensor]:
    """Choose k of M pairs, and their weights.

    Args:
        probability: p, `[R, M]`: of R products, which have the same number of winners.
        k: pairs that are kept, below M.
        uniform: `[R, k]`, in [0, 1), of which the first c of each row are not used.
        estimator: wta_crs; crs, without winners; or top_k, the most probable pairs with weight 1, which is biased.

    Returns:
        Positions of the pairs, `[R, k]`, int64, with the winners first, and their weights, `[R, k]`.
    """
    num_pairs = probability.shape[-1]
    sorted_p, order = probability.sort(dim=-1)
    if estimator == "top_k":
        return order.flip(-1)[:, :k], torch.ones_like(uniform)
    sums = sorted_p.cumsum(dim=-1)
    winners = num_winners(sums, k) if estimator == "wta_crs" else torch.zeros((), dtype=torch.int64, device=sums.device)
    last = (num_pairs - 1 - winners).expand(len(sums), 1)  # in ascending order, the last pair that may be drawn
    rest = sums.gather(-1, last)
    drawn = torch.searchsorted(sums, uniform * rest, right=True).minimum(last)
    weight = rest / ((k - winners) * sorted_p.gather(-1, drawn))
    place = torch.arange(k, device=sums.device).expand_as(drawn)
    wins = place < winners
    position = order.gather(-1, torch.where(wins, num_pairs - 1 - place, drawn))
    # A residual of nought has nothing to draw: its pairs weigh nothing.
    return position, torch.where(wins, 1, torch.where(rest > 0, weight, 0))
