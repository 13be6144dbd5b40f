"""Rules for the inverse step size H in the space of outputs.

H follows a schedule, is found by a line search, is adaptive as in AdaGrad, or is a second derivative.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import one_of, positive, within
from datamodules.distributed.collectives import all_reduce_sum
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.optimization.sso.line_search import EXPAND, SHRINK, TRIES

Schedule = Literal["constant", "stochastic", "exponential"]
LEAST, GREATEST = 1e-4, 1e4
"""Bounds on the H that a line search finds."""
LEAST_CURVATURE = 1e-5
"""Value that is added to the second derivative of the logistic loss."""
LEAST_SQUARE, GREATEST_SQUARE = 1e-5, 1e5
"""Bounds on the sum of squared gradients for each sample and output."""


class Target(NamedTuple):
    """This rank's part of a batch, in the space of outputs."""

    at: Tensor
    """Outputs z_t, `[b, K]`."""
    gradient: Tensor
    """Gradient G at z_t, `[b, K]`."""
    value: Callable[[Tensor], Tensor]
    """Function that computes the loss of given outputs, summed over the samples of all ranks."""
    samples: Tensor
    """Positions of the samples in the training set, `[b]`, int64."""
    global_batch_size: int
    num_train_samples: int
    step: int
    """Index t of the batch, from 1."""
    total_steps: int
    """Total number T of batches."""


def scheduled_preconditioner(inverse_step: Tensor, schedule: Schedule, step: int, total_steps: int) -> Tensor:
    """Apply the schedule to H, and return H, H sqrt(t) or H T^(t/T)."""
    factors = {"constant": 1.0, "stochastic": math.sqrt(step), "exponential": total_steps ** (step / total_steps)}
    return inverse_step * factors[schedule]


class TargetStep(nn.Module, ABC):
    """Base class of rules that compute H for a batch.

    State that persists between batches is stored in buffers, or sharded over ranks.
    """

    @abstractmethod
    def forward(self, target: Target) -> Tensor:
        """Return the inverse step size H, a scalar or `[b, K]`; every rank must call this method."""

    def checkpoint_state(self) -> Tensor | None:
        """Return the per-sample state for a checkpoint, `[N, K]`, or None; every rank must call this method."""
        return None

    def restore(self, kept: Tensor) -> None:
        """Restore the per-sample state from a checkpoint."""


class ScheduledStep(TargetStep):
    """A rule in which H follows a fixed schedule.

    Args:
        rate: value of 1/H before the schedule is applied, which is eta in the scaling of the paper. The authors use 1/4
            for the squared loss, 2 for the logistic loss, and 1 / (1 - 1/K) for the cross-entropy with K classes.
        schedule: schedule for batch t of T: `constant` means H, `stochastic` means H sqrt(t), and `exponential` means H
            T^(t/T).
    """

    inverse: Tensor

    def __init__(self, rate: float, schedule: Schedule = "constant") -> None:
        super().__init__()
        positive(rate=rate)
        one_of(get_args(Schedule), schedule=schedule)
        self.schedule: Schedule = schedule
        self.register_buffer("inverse", torch.tensor(1 / rate, dtype=torch.float64))

    def forward(self, target: Target) -> Tensor:
        return scheduled_preconditioner(self.inverse, self.schedule, target.step, target.total_steps)


class LineSearchStep(ScheduledStep):
    """A rule that finds H by a line search on the outputs (SSO-SLS).

    The search starts at half of the previous H, and divides H by .9 until l(z_t - G/H) <= l(z_t) - c/H ||G||^2.

    Args:
        rate: value of 1/H before the first batch.
        schedule: schedule that is applied to the H that the search finds, `constant`, `stochastic` or `exponential`.
        c: fraction, in (0, 1), of the first-order decrease that a step must achieve.
    """

    def __init__(self, rate: float = 1.0, schedule: Schedule = "constant", c: float = 0.5) -> None:
        super().__init__(rate, schedule)
        within(0, 1, "()", c=c)
        self.c = c

    @torch.no_grad()
    def forward(self, target: Target) -> Tensor:
        squared = all_reduce_sum(target.gradient.double().square().sum())
        found = torch.stack([target.value(target.at).double(), squared, self.inverse]).tolist()
        value, squared_norm, inverse = found
        inverse /= EXPAND
        for _ in range(TRIES):
            if float(target.value(target.at - target.gradient / inverse)) <= value - self.c / inverse * squared_norm:
                break
            inverse /= SHRINK
        self.inverse.fill_(min(max(inverse, LEAST), GREATEST))
        return super().forward(target)


class AdaGradStep(TargetStep):
    """A rule with the inverse step size H sqrt(A) + 1e-6.

    A is the sum of ||G||^2 over all batches so far.

    Args:
        rate: value of 1/H.
    """

    squares: Tensor

    def __init__(self, rate: float = 100.0) -> None:
        super().__init__()
        positive(rate=rate)
        self.rate = rate
        self.register_buffer("squares", torch.zeros((), dtype=torch.float64))

    def forward(self, target: Target) -> Tensor:
        self.squares += all_reduce_sum(target.gradient.double().square().sum())
        return self.squares.sqrt() / self.rate + 1e-6


class LogisticNewtonStep(TargetStep):
    """A rule with the inverse step size H (p (1 - p) + 1e-5), `[b, K]`, where p = 1 / (1 + exp(-z_t)).

    For the logistic loss, p (1 - p) is the second derivative with respect to an output. The authors call this rule
    online Newton. If `scaling` is `paper` and `rate` is 1, or if `scaling` is `code` and `rate` is 2, the minimum of
    the surrogate is the result of a Newton step. The authors compute p at the current outputs in each inner step. Here
    p is computed at z_t.

    Args:
        rate: value of 1/H.
    """

    def __init__(self, rate: float = 2.0) -> None:
        super().__init__()
        positive(rate=rate)
        self.rate = rate

    def forward(self, target: Target) -> Tensor:
        p = target.at.sigmoid()
        return (p * (1 - p) + LEAST_CURVATURE) / self.rate


def allocate_state(state: PerSample, values: Tensor, num_train_samples: int) -> PerSample:
    """Return the per-sample state; in the first step, allocate K numbers per sample, where `values` is `[b, K]`."""
    if state.num_owned:  # already allocated; the number of outputs is unknown before the first step
        return state
    made = PerSample(values.shape[1])
    made.restore(state.gather())
    return made.allocate(num_train_samples, values.device, values.dtype)


class DiagonalAdaGradStep(TargetStep):
    """A rule with the inverse step size H sqrt(D), `[b, K]`.

    For each sample and output, D contains the sum of G^2 over the batches so far, clamped to [1e-5, 1e5]. D consists of
    N x K numbers, which are sharded over ranks.

    Args:
        rate: value of 1/H.
    """

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        positive(rate=rate)
        self.rate = rate
        self.squares = PerSample(0)

    def forward(self, target: Target) -> Tensor:
        gradient = target.gradient.flatten(1)
        self.squares = allocate_state(self.squares, gradient, target.num_train_samples)
        least = 0.0 if target.step == 1 else LEAST_SQUARE  # equivalent to clamping all samples after each batch
        add = lambda old, new: (old.clamp(least) + new).clamp(LEAST_SQUARE, GREATEST_SQUARE)  # noqa: E731
        squares = self.squares.update(target.samples, gradient**2, add, target.global_batch_size)
        return squares.sqrt().view_as(target.gradient) / self.rate

    def checkpoint_state(self) -> Tensor:
        return self.squares.gather(copy=False)

    def restore(self, kept: Tensor) -> None:
        self.squares = PerSample(kept.shape[1])
        self.squares.restore(kept)
