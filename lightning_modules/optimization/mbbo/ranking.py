"""NDCG as a bilevel problem.

There is a lower level for each pair of user and rated item, and a threshold for each user.

A user q has scores h of M items. The user rated n of them, and the gains are 2^rating - 1. A squared hinge approximates
the rank of an item:

    g_i = mean_j max(0, h_j - h_i + 1)^2 over items j,        u_i = argmin_u 1/2 (u - g_i)^2
    -NDCG_q ~ n / Z_q mean_i f_i(u_i),                        f_i(u) = -(2^r_i - 1) / log2(1 + M u)

where Z_q is the DCG of the best ranking. NDCG@K needs a threshold l_q that about K items exceed:

    -NDCG_q@K ~ n / Z_q mean_i psi(h_i - l_q) f_i(u_i),       psi(t) = c sigmoid(a t)
    l_q = argmin_l K/M l + tau_2/2 l^2 + tau_1 mean_j softplus((h_j - l) / tau_1).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.optimization.mbbo.blocks import msvr

MARGIN = 1.0
"""Margin by which a rated item's score should exceed another's."""
TAU_1, TAU_2 = 1e-3, 1e-4
"""Temperature and curvature of the threshold's lower level; the authors'."""
PSI, SLOPE = 2.0, 2.0
"""c and a; the authors'."""
FLOOR = 1e-5
"""Lower bound of 1/M + u."""


def hinges(score: Tensor, chosen: int) -> Tensor:
    """Compute g, `[b, P]`, for the first P of J scores `[b, J]`.

    It is a mean over all J scores.
    """
    return torch.relu(score[:, None] - score[:, :chosen, None] + MARGIN).square().mean(2)


def rank_gain(u: Tensor, gain: Tensor, items: int) -> tuple[Tensor, Tensor]:
    """Compute the gain function f and its derivative f' at u, `[b, P]`.

    Args:
        u: above -1/M.
        gain: 2^r - 1, `[b, P]`.
        items: M.
    """
    log = torch.log2(1 + items * u)
    slope = gain * items / (log**2 * (1 + items * u) * torch.log(u.new_full((), 2.0)))
    return -gain / log, slope


def floored(u: Tensor, items: int) -> Tensor:
    """Clamp the tracked hinges u above -1/M."""
    return u.clamp(min=FLOOR - 1 / items)


def threshold_slope(threshold: Tensor, score: Tensor, top: int, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate the threshold's lower level.

    Args:
        threshold: l, `[b]`.
        score: scores h of a sample of items, `[b, J]`.
        top: K.
        items: M.

    Returns:
        The first and second derivatives with respect to l, `[b]`, and the mixed derivatives with respect to l and h
        times -J, `[b, J]`.
    """
    above = torch.sigmoid((score - threshold[:, None]) / TAU_1)
    mixed = above * (1 - above) / TAU_1
    return top / items + TAU_2 * threshold - above.mean(1), TAU_2 + mixed.mean(1), mixed


class Threshold(NamedTuple):
    """Thresholds of users, and the dependence of the thresholds on the scores."""

    value: Tensor
    """l, `[b]`."""
    curvature: Tensor
    """Tracked second derivative of the lower level, `[b]`."""
    mixed: Tensor
    """Minus J times the mixed derivatives, `[b, J]`."""


def surrogate(
    score: Tensor, g: Tensor, u: Tensor, gain: Tensor, weight: Tensor, items: int, threshold: Threshold | None = None
) -> Tensor:
    """Surrogate whose gradient is that of the mean of -NDCG over users.

    u and thresholds count as constants.

    Args:
        score: scores h, `[b, J]`, with the rated items in the first P columns.
        g: hinges g of the rated items, `[b, P]`.
        u: tracked hinges, `[b, P]`.
        gain: 2^r - 1, `[b, P]`.
        weight: ratio n / Z_q, divided by the number of users, `[b]`.
        items: M.
        threshold: threshold of the top K items; None ranks all items.
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
    """Compute the listwise cross-entropy of scores `[b, J]`, summed over users.

    It is the mean cross-entropy of each of the first P scores against the remaining scores.
    """
    rated, others = score[:, :chosen], score[:, chosen:]
    return (torch.logaddexp(rated, others.logsumexp(1, keepdim=True)) - rated).mean(1).sum()


def discounts(count: int, like: Tensor) -> Tensor:
    """Compute 1 / log2(1 + rank) for ranks 1 ... count."""
    return 1 / torch.log2(torch.arange(2, count + 2, dtype=like.dtype, device=like.device))


def best_dcg(rating: Tensor, top: int) -> Tensor:
    """Compute the DCG of the best ranking of the items of each user up to rank K, `[b]`.

    Args:
        rating: ratings of all items, `[b, M]`; unrated items have 0.
        top: K.
    """
    gain = 2 ** rating.topk(min(top, rating.shape[1]), dim=1).values - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1)


def ndcg(score: Tensor, rating: Tensor, excluded: Tensor, top: int) -> Tensor:
    """Compute NDCG@K of each user, `[b]`.

    It is 0 for a user without ratings.

    Args:
        score: `[b, M]`.
        rating: held-out ratings, `[b, M]`; other items have 0.
        excluded: mask of items to leave out of the ranking, `[b, M]`.
        top: K.
    """
    best = score.masked_fill(excluded, -torch.inf).topk(min(top, score.shape[1]), dim=1).indices
    gain = 2 ** rating.gather(1, best) - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1) / best_dcg(rating, top).clamp(min=1e-12)


class LowerLevels:
    """Lower levels of users and rated items.

    Users are sharded over ranks. Let s and s' estimate the derivative of a lower level at the scores of the current and
    of the previous iterate:

        v <- (1 - alpha) v + alpha s + gamma (s - s'),    u <- max(u - tau v, 1e-5 - 1/M),    s = u - g.

    At the previous iterate, u would have been u - tau ((1 - alpha) v + alpha s'). Thresholds are updated in the same
    way.

    Args:
        alpha: weight of the current batch, in (0, 1].
        gamma: weight of the variance-reduction term.
        tau: step size of the tracked hinges u.
        tau_threshold: step size of thresholds.
    """

    def __init__(self, alpha: float, gamma: float, tau: float, tau_threshold: float) -> None:
        self.alpha, self.gamma, self.tau, self.tau_threshold = alpha, gamma, tau, tau_threshold
        self.ranks = PerSample(0)
        self.thresholds = PerSample(3)
        """l, its tracked slope and its tracked curvature."""

    def allocate(self, users: int, items: int, device: torch.device, dtype: torch.dtype) -> None:
        """Allocate the state for training.

        It is restored from a checkpoint, or zero.
        """
        restored = self.ranks.gathered()
        self.ranks = PerSample(2 * items)
        self.ranks.restore(restored)
        for state in self._states():
            state.allocate(users, device, dtype)

    def _states(self) -> Iterable[PerSample]:
        return self.ranks, self.thresholds

    def kept(self) -> list[Tensor]:
        """Gather the state for a checkpoint.

        Every rank must call this method.
        """
        return [state.gathered() for state in self._states()]

    def restore(self, kept: list[Tensor]) -> None:
        """Restore the state from a checkpoint."""
        for state, rows in zip(self._states(), kept, strict=True):
            state.restore(rows)

    def move(
        self, user: Tensor, rated: Tensor, g: Tensor, g_before: Tensor | None, items: int, global_batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Update u of rated items from their hinges.

        Return u at the current and the previous iterate, `[b, P]`.

        Args:
            user: `[b]`.
            rated: items, `[b, P]`.
            g: hinges, `[b, P]`.
            g_before: hinges at the previous iterate; None takes a step without variance reduction.
            items: M.
            global_batch_size: number of users in the batch over all ranks.
        """
        own = read(self.ranks, user, g, global_batch_size)
        u, v = own[:, :items].gather(1, rated), own[:, items:].gather(1, rated)
        slope, before = u - g, u - (g if g_before is None else g_before)
        v_new = msvr(v, slope, before, self.alpha, 0.0 if g_before is None else self.gamma)
        u_new = floored(u - self.tau * v_new, items)
        past = floored(u - self.tau * msvr(v, before, before, self.alpha, 0.0), items)

        def written(old: Tensor, value: Tensor) -> Tensor:
            place, u_new, v_new = value.chunk(3, dim=1)
            place = place.long()
            return old.scatter(1, place, u_new).scatter(1, place + items, v_new)

        self.ranks.update(user, torch.cat([rated.to(g), u_new, v_new], dim=1), written, global_batch_size)
        return u_new, past

    def move_thresholds(
        self, user: Tensor, score: Tensor, score_before: Tensor | None, top: int, items: int, global_batch_size: int
    ) -> tuple[Threshold, Threshold]:
        """Update the thresholds of users from scores `[b, J]`.

        Return them at the current and the previous iterate.
        """
        value, tracked, curvature = read(self.thresholds, user, score, global_batch_size).unbind(1)
        now = threshold_slope(value, score, top, items)
        before = now if score_before is None else threshold_slope(value, score_before, top, items)
        gamma, plain = 0.0 if score_before is None else self.gamma, (self.alpha, 0.0)
        slope = msvr(tracked, now[0], before[0], self.alpha, gamma)
        # start from the batch's curvature: from 0, the tracked one would be too small to divide by
        curvature = torch.where(curvature > 0, curvature, now[1])
        bend = msvr(curvature, now[1], before[1], self.alpha, gamma).clamp(min=TAU_2)
        made = Threshold(value - self.tau_threshold * slope, bend, now[2])
        past_value = value - self.tau_threshold * msvr(tracked, before[0], before[0], *plain)
        past_bend = msvr(curvature, before[1], before[1], *plain).clamp(min=TAU_2)
        self.thresholds.update(
            user, torch.stack([made.value, slope, bend], dim=1), lambda old, value: value, global_batch_size
        )
        return made, Threshold(past_value, past_bend, before[2])


def read(state: PerSample, user: Tensor, like: Tensor, global_batch_size: int) -> Tensor:
    """Return the rows of the state for the users of a batch, `[b, K]`."""
    return state.update(user, like.new_zeros(len(user), 1), lambda old, value: old, global_batch_size)
