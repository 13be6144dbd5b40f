"""NDCG of rankings as a bilevel problem: for each user and rated item a lower level, and for each user a threshold.

A user q has scores h of M items and n rated ones, with gains 2^rating - 1. A squared hinge stands for an item's rank:

    g_i = mean_j max(0, h_j - h_i + 1)^2 over items j,        u_i = argmin_u 1/2 (u - g_i)^2
    -NDCG_q ~ n / Z_q mean_i f_i(u_i),                        f_i(u) = -(2^r_i - 1) / log2(1 + M u)

with Z_q the DCG of the best ranking. Of the K best items alone it is, by a threshold that about K items are above,

    -NDCG_q@K ~ n / Z_q mean_i psi(h_i - l_q) f_i(u_i),       psi(t) = c sigmoid(a t)
    l_q = argmin_l K/M l + tau_2/2 l^2 + tau_1 mean_j softplus((h_j - l) / tau_1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 1.0
"""What a rated item's score should be above another's by."""
TAU_1, TAU_2 = 1e-3, 1e-4
"""Temperature and curvature of the threshold's lower level; the authors'."""
PSI, SLOPE = 2.0, 2.0
"""c and a; the authors'."""
FLOOR = 1e-5
"""Least 1/M + u."""


def hinges(score: Tensor, chosen: int) -> Tensor:
    """Compute g, `[b, P]`, for the first P of scores `[b, J]`, by a mean over all of them."""
    return torch.relu(score[:, None] - score[:, :chosen, None] + MARGIN).square().mean(2)


def rank_gain(u: Tensor, gain: Tensor, items: int) -> tuple[Tensor, Tensor]:
    """Compute f and f' at u, `[b, P]`.

    Args:
        u: above -1/M.
        gain: 2^r - 1, `[b, P]`.
        items: M.
    """
    log = torch.log2(1 + items * u)
    slope = gain * items / (log**2 * (1 + items * u) * torch.log(u.new_full((), 2.0)))
    return -gain / log, slope


def floored(u: Tensor, items: int) -> Tensor:
    """Keep u above -1/M."""
    return u.clamp(min=FLOOR - 1 / items)


def threshold_slope(threshold: Tensor, score: Tensor, top: int, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate the threshold's lower level.

    Args:
        threshold: l, `[b]`.
        score: h of a sample of items, `[b, J]`.
        top: K.
        items: M.

    Returns:
        Its derivative in l and its second one, `[b]`, and minus J times its mixed derivatives in l and h, `[b, J]`.
    """
    above = torch.sigmoid((score - threshold[:, None]) / TAU_1)
    mixed = above * (1 - above) / TAU_1
    return top / items + TAU_2 * threshold - above.mean(1), TAU_2 + mixed.mean(1), mixed


class Threshold(NamedTuple):
    """Users' thresholds, and how they move with the scores."""

    value: Tensor
    """l, `[b]`."""
    curvature: Tensor
    """Tracked second derivative of the lower level, `[b]`."""
    mixed: Tensor
    """Minus J times the mixed derivatives, `[b, J]`."""


def surrogate(
    score: Tensor, g: Tensor, u: Tensor, gain: Tensor, weight: Tensor, items: int, threshold: Threshold | None = None
) -> Tensor:
    """Make a number whose gradient is that of the mean over users of -NDCG: u and thresholds are constants in it.

    Args:
        score: h, `[b, J]`, of which the first P are of rated items.
        g: their hinges, `[b, P]`.
        u: the tracked ones, `[b, P]`.
        gain: 2^r - 1, `[b, P]`.
        weight: n / Z_q over the number of users, `[b]`.
        items: M.
        threshold: of the K best items; None takes all.
    """
    value, slope = rank_gain(u, gain, items)
    if threshold is None:
        return (weight * (slope * g).mean(1)).sum()
    rated = score[:, : g.shape[1]]
    sigmoid = torch.sigmoid(SLOPE * (rated.detach() - threshold.value[:, None]))
    psi, psi_slope = PSI * sigmoid, PSI * SLOPE * sigmoid * (1 - sigmoid)
    moved = (threshold.mixed * score).mean(1) / threshold.curvature  # its gradient is the threshold's
    return (weight * (psi * slope * g + psi_slope * value * (rated - moved[:, None])).mean(1)).sum()


def listwise(score: Tensor, chosen: int) -> Tensor:
    """Sum over users minus the mean log probability of each of the first P of scores `[b, J]` among the rest and it."""
    rated, others = score[:, :chosen], score[:, chosen:]
    return (torch.logaddexp(rated, others.logsumexp(1, keepdim=True)) - rated).mean(1).sum()


def discounts(count: int, like: Tensor) -> Tensor:
    """Give 1 / log2(1 + rank) of the ranks 1, 2, ..., count."""
    return 1 / torch.log2(torch.arange(2, count + 2, dtype=like.dtype, device=like.device))


def best_dcg(rating: Tensor, top: int) -> Tensor:
    """Compute the DCG of the best ranking of each user's items up to rank K, `[b]`.

    Args:
        rating: `[b, M]`, 0 for what was not rated.
        top: K.
    """
    gain = 2 ** rating.topk(min(top, rating.shape[1]), dim=1).values - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1)


def ndcg(score: Tensor, rating: Tensor, excluded: Tensor, top: int) -> Tensor:
    """Compute NDCG@K of each user, `[b]`; that of a user with no rating is 0.

    Args:
        score: `[b, M]`.
        rating: of what was held out, `[b, M]`, 0 for other items.
        excluded: items that are no candidates, `[b, M]`.
        top: K.
    """
    best = score.masked_fill(excluded, -torch.inf).topk(min(top, score.shape[1]), dim=1).indices
    gain = 2 ** rating.gather(1, best) - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1) / best_dcg(rating, top).clamp(min=1e-12)
