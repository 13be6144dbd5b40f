"""The lower levels of rankings: for each user u and v of each item, and what is tracked of the threshold."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.optimization.mbbo.ranking import TAU_2, Threshold, floored, threshold_slope
from lightning_modules.optimization.mbbo.trackers import msvr


class LowerLevels:
    """Move the lower levels of a batch's users and rated items, of which each process keeps its users'.

    With s a sample of a lower level's derivative, at this iterate's scores and, ', the last one's, v and u are

        v <- (1 - alpha) v + alpha s + gamma (s - s'),    u <- max(u - tau v, 1e-5 - 1/M),    s = u - g.

    At the iterate before, u would have been u - tau ((1 - alpha) v + alpha s'). Thresholds are alike.

    Args:
        alpha: weight of a sample, in (0, 1].
        gamma: weight of the change.
        tau: step size of u.
        tau_threshold: step size of thresholds.
    """

    def __init__(self, alpha: float, gamma: float, tau: float, tau_threshold: float) -> None:
        self.alpha, self.gamma, self.tau, self.tau_threshold = alpha, gamma, tau, tau_threshold
        self.ranks = PerSample(0)
        self.thresholds = PerSample(3)
        """l, its tracked slope and its tracked curvature."""

    def allocate(self, users: int, items: int, device: torch.device, dtype: torch.dtype) -> None:
        """Begin a training, with what was restored or zeros, stored in a type."""
        restored = self.ranks.gathered()
        self.ranks = PerSample(2 * items)
        self.ranks.restore(restored)
        for state in self._states():
            state.allocate(users, device, dtype)

    def _states(self) -> Iterable[PerSample]:
        return self.ranks, self.thresholds

    def kept(self) -> list[Tensor]:
        """Give what a checkpoint keeps. Every process calls it."""
        return [state.gathered() for state in self._states()]

    def restore(self, kept: list[Tensor]) -> None:
        """Take what a checkpoint kept."""
        for state, rows in zip(self._states(), kept, strict=True):
            state.restore(rows)

    def move(
        self, user: Tensor, rated: Tensor, g: Tensor, g_before: Tensor | None, items: int, global_batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Move u of rated items `[b, P]` by their hinges, and give it at this iterate and at the one before.

        Args:
            user: `[b]`.
            rated: items, `[b, P]`.
            g: hinges, `[b, P]`.
            g_before: those at the last iterate; None makes no comparison.
            items: M.
            global_batch_size: users of the batch over all processes.
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
        """Move the thresholds of users by scores `[b, J]`, and give them at this iterate and at the one before."""
        value, tracked, curvature = read(self.thresholds, user, score, global_batch_size).unbind(1)
        now = threshold_slope(value, score, top, items)
        before = now if score_before is None else threshold_slope(value, score_before, top, items)
        gamma, plain = 0.0 if score_before is None else self.gamma, (self.alpha, 0.0)
        slope = msvr(tracked, now[0], before[0], self.alpha, gamma)
        # of the first epoch, the sample: from 0, a tracked curvature would be too small, and may not be divided by
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
    """Give the rows of a batch's users as they are, `[b, K]`."""
    return state.update(user, like.new_zeros(len(user), 1), lambda old, value: old, global_batch_size)
