"""NDCG maximisation as a bilevel problem.

There is a lower-level problem for each pair of a user and a rated item. NDCG@K also requires one lower-level problem
for each user; the solution of this problem is a threshold.

For a user q, the network computes scores h of M items. The user has rated n of these items. If r_i is the rating of
item i, its gain is 2^r_i - 1. The rank of item i is approximated by M g_i, where g_i is a mean of squared hinges:

    g_i = mean_j max(0, h_j - h_i + 1)^2 over items j,        u_i = argmin_u 1/2 (u - g_i)^2
    -NDCG_q ~ n / Z_q mean_i f_i(u_i),                        f_i(u) = -(2^r_i - 1) / log2(1 + M u)

where Z_q is the DCG of the best ranking. NDCG@K uses a threshold l_q, which is exceeded by the scores of about K items:

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
"""Margin by which the score of a rated item should exceed the score of every other item."""
TAU_1, TAU_2 = 1e-3, 1e-4
"""The authors' temperature tau_1 and curvature tau_2 in the lower-level problem of the threshold."""
PSI, SLOPE = 2.0, 2.0
"""The authors' values of c and a in psi."""
TAU_THRESHOLD = 0.01
"""Step size of the thresholds."""
FLOOR = 1e-5
"""Lower bound on 1/M + u."""


def hinges(score: Tensor, chosen: int) -> Tensor:
    """Compute the mean squared hinges g, `[b, P]`, of the first P of J items from scores `[b, J]`.

    Each mean is taken over all J items.
    """
    return torch.relu(score[:, None] - score[:, :chosen, None] + MARGIN).square().mean(2)


def rank_gain(u: Tensor, gain: Tensor, items: int) -> tuple[Tensor, Tensor]:
    """Compute the gain function f and its derivative f' at u; both results are `[b, P]`.

    Args:
        u: tracked hinges u, `[b, P]`, above -1/M.
        gain: gains 2^r - 1, `[b, P]`.
        items: number M of items.
    """
    log = torch.log2(1 + items * u)
    slope = gain * items / (log**2 * (1 + items * u) * torch.log(u.new_full((), 2.0)))
    return -gain / log, slope


def clamp_hinges(u: Tensor, items: int) -> Tensor:
    """Clamp the tracked hinges u, so that they stay above -1/M."""
    return u.clamp(min=FLOOR - 1 / items)


def threshold_slope(threshold: Tensor, score: Tensor, top: int, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute derivatives of the lower-level objective whose minimiser is the threshold.

    Args:
        threshold: thresholds l, `[b]`.
        score: scores h of a sample of items, `[b, J]`.
        top: cutoff K of NDCG@K.
        items: number M of items.

    Returns:
        The first and the second derivative with respect to l, both `[b]`, and -J times the mixed derivatives with
        respect to l and h, `[b, J]`.
    """
    above = torch.sigmoid((score - threshold[:, None]) / TAU_1)
    mixed = above * (1 - above) / TAU_1
    return top / items + TAU_2 * threshold - above.mean(1), TAU_2 + mixed.mean(1), mixed


class Threshold(NamedTuple):
    """Thresholds of users, and derivatives that describe how the thresholds depend on the scores."""

    value: Tensor
    """Thresholds l, `[b]`."""
    curvature: Tensor
    """Tracked second derivative of the lower-level objective, `[b]`."""
    mixed: Tensor
    """-J times the mixed derivatives with respect to l and h, `[b, J]`."""


def surrogate(
    score: Tensor, g: Tensor, u: Tensor, gain: Tensor, weight: Tensor, items: int, threshold: Threshold | None = None
) -> Tensor:
    """Compute a surrogate loss whose gradient is that of -NDCG, averaged over users.

    The tracked hinges u and the thresholds are treated as constants.

    Args:
        score: scores h, `[b, J]`, with the rated items in the first P columns.
        g: hinges g of the rated items, `[b, P]`.
        u: tracked hinges u, `[b, P]`.
        gain: gains 2^r - 1, `[b, P]`.
        weight: n / Z_q, divided by the number of users, `[b]`.
        items: number M of items.
        threshold: thresholds of the top K items for NDCG@K; None means NDCG over all items.
    """
    value, slope = rank_gain(u, gain, items)
    if threshold is None:
        return (weight * (slope * g).mean(1)).sum()
    rated = score[:, : g.shape[1]]
    sigmoid = torch.sigmoid(SLOPE * (rated.detach() - threshold.value[:, None]))
    psi, psi_slope = PSI * sigmoid, PSI * SLOPE * sigmoid * (1 - sigmoid)
    moved = (threshold.mixed * score).mean(1) / threshold.curvature  # has the same gradient as the threshold
    return (weight * (psi * slope * g + psi_slope * value * (rated - moved[:, None])).mean(1)).sum()


def listwise(score: Tensor, chosen: int) -> Tensor:
    """Compute the listwise cross-entropy of scores `[b, J]`, summed over users, for the warm-up epochs.

    For each of the first P items, which are rated, a cross-entropy is computed. The score of this item is the logit of
    the correct class, and the scores of the unrated items are the other logits. The P cross-entropies are averaged.
    """
    rated, others = score[:, :chosen], score[:, chosen:]
    return (torch.logaddexp(rated, others.logsumexp(1, keepdim=True)) - rated).mean(1).sum()


def discounts(count: int, like: Tensor) -> Tensor:
    """Compute the discounts 1 / log2(1 + rank) of the ranks 1 ... count."""
    return 1 / torch.log2(torch.arange(2, count + 2, dtype=like.dtype, device=like.device))


def best_dcg(rating: Tensor, top: int) -> Tensor:
    """Compute, for each user, the DCG@K of the best possible ranking of all items; the result is `[b]`.

    Args:
        rating: ratings of all items, `[b, M]`; unrated items have the rating 0.
        top: cutoff K of NDCG@K.
    """
    gain = 2 ** rating.topk(min(top, rating.shape[1]), dim=1).values - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1)


def ndcg(score: Tensor, rating: Tensor, excluded: Tensor, top: int) -> Tensor:
    """Compute NDCG@K for each user; the result is `[b]`.

    The NDCG of a user without held-out ratings is 0.

    Args:
        score: scores of all items, `[b, M]`.
        rating: held-out ratings, `[b, M]`; all other items have the rating 0.
        excluded: mask of the items that are not ranked, `[b, M]`.
        top: cutoff K of NDCG@K.
    """
    best = score.masked_fill(excluded, -torch.inf).topk(min(top, score.shape[1]), dim=1).indices
    gain = 2 ** rating.gather(1, best) - 1
    return (gain * discounts(gain.shape[1], gain)).sum(1) / best_dcg(rating, top).clamp(min=1e-12)


class LowerLevels:
    """Variables and trackers of the lower-level problems.

    The users are sharded over ranks. Let s and s' be estimates of the derivative of a lower-level objective, computed
    with the scores of the current and of the previous iterate. With the tracker v of this derivative, the updates are

        v <- (1 - alpha) v + alpha s + gamma (s - s'),    u <- max(u - tau v, 1e-5 - 1/M),    s = u - g.

    For the previous iterate, u is replaced by u - tau ((1 - alpha) v + alpha s'), clamped in the same way. The
    thresholds are updated by the same formulas, but without clamping.

    Args:
        alpha: weight of the current batch in the trackers, in (0, 1].
        gamma: weight of the variance-reduction term.
        tau: step size of the tracked hinges u.
    """

    def __init__(self, alpha: float, gamma: float, tau: float) -> None:
        self.alpha, self.gamma, self.tau = alpha, gamma, tau
        self.ranks = PerSample(0)
        self.thresholds = PerSample(3)
        """For each user: the threshold l, and the trackers of the first and second derivatives with respect to l."""

    def allocate(self, users: int, items: int, device: torch.device, dtype: torch.dtype) -> None:
        """Allocate the state for training.

        The state is initialised with zeros, or with the values of a checkpoint if the run is resumed.
        """
        restored = self.ranks.gather()
        self.ranks = PerSample(2 * items)
        self.ranks.restore(restored)
        for state in self._states():
            state.allocate(users, device, dtype)

    def _states(self) -> Iterable[PerSample]:
        return self.ranks, self.thresholds

    def checkpoint_state(self) -> list[Tensor]:
        """Gather the state of all users for a checkpoint.

        Every rank must call this method.
        """
        return [state.gather(copy=False) for state in self._states()]

    def restore(self, kept: list[Tensor]) -> None:
        """Restore the state from a checkpoint."""
        for state, rows in zip(self._states(), kept, strict=True):
            state.restore(rows)

    def move(
        self, user: Tensor, rated: Tensor, g: Tensor, g_before: Tensor | None, items: int, global_batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Update the tracked hinges u of rated items.

        Return u at the current and at the previous iterate, both `[b, P]`.

        Args:
            user: indices of the users, `[b]`.
            rated: indices of rated items, `[b, P]`.
            g: hinges g of these items, `[b, P]`.
            g_before: hinges at the previous iterate; None means an update without variance reduction.
            items: number M of items.
            global_batch_size: number of users in the batch over all ranks.
        """
        own = rows_of_users(self.ranks, user, g, global_batch_size)
        u, v = own[:, :items].gather(1, rated), own[:, items:].gather(1, rated)
        slope, before = u - g, u - (g if g_before is None else g_before)
        v_new = msvr(v, slope, before, self.alpha, 0.0 if g_before is None else self.gamma)
        u_new = clamp_hinges(u - self.tau * v_new, items)
        past = clamp_hinges(u - self.tau * msvr(v, before, before, self.alpha, 0.0), items)

        def written(old: Tensor, value: Tensor) -> Tensor:
            place, u_new, v_new = value.chunk(3, dim=1)
            place = place.long()
            return old.scatter(1, place, u_new).scatter(1, place + items, v_new)

        self.ranks.update(user, torch.cat([rated.to(g), u_new, v_new], dim=1), written, global_batch_size)
        return u_new, past

    def move_thresholds(
        self, user: Tensor, score: Tensor, score_before: Tensor | None, top: int, items: int, global_batch_size: int
    ) -> tuple[Threshold, Threshold]:
        """Use the scores `[b, J]` of users to update their thresholds.

        Return the thresholds at the current and at the previous iterate.
        """
        value, tracked, curvature = rows_of_users(self.thresholds, user, score, global_batch_size).unbind(1)
        now = threshold_slope(value, score, top, items)
        before = now if score_before is None else threshold_slope(value, score_before, top, items)
        gamma, plain = 0.0 if score_before is None else self.gamma, (self.alpha, 0.0)
        slope = msvr(tracked, now[0], before[0], self.alpha, gamma)
        # The tracker of the curvature starts with the value of the first batch; if it started at 0, it would be too
        # small to divide by.
        curvature = torch.where(curvature > 0, curvature, now[1])
        bend = msvr(curvature, now[1], before[1], self.alpha, gamma).clamp(min=TAU_2)
        made = Threshold(value - TAU_THRESHOLD * slope, bend, now[2])
        past_value = value - TAU_THRESHOLD * msvr(tracked, before[0], before[0], *plain)
        past_bend = msvr(curvature, before[1], before[1], *plain).clamp(min=TAU_2)
        self.thresholds.update(
            user, torch.stack([made.value, slope, bend], dim=1), lambda old, value: value, global_batch_size
        )
        return made, Threshold(past_value, past_bend, before[2])


def rows_of_users(state: PerSample, user: Tensor, like: Tensor, global_batch_size: int) -> Tensor:
    """Return the rows of the state for the users in a batch, one row per user."""
    return state.update(user, like.new_zeros(len(user), 1), lambda old, value: old, global_batch_size)
