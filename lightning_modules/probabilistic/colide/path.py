"""Optimisation stages of CoLiDE and DAGMA, run one iteration at a time.

The state can be saved in a checkpoint after any iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.arguments import at_least, positive, within
from lightning_modules.probabilistic.colide.score import (
    Array,
    Variant,
    acyclicity,
    gradient,
    noise_scale,
    residual_covariances,
    score,
)

BETAS, EPS = (0.99, 0.999), 1e-8
TOLERANCE = 1e-6
"""A stage ends when the relative change of the objective between two checks is at most this value."""
LEAST_RATE = 1e-16
"""A stage ends when halving reduces the learning rate to at most this value."""
FLOOR = 1e-4
"""Minimum noise scale, as a fraction of the smallest standard deviation of a column."""
OUTSIDE = {"ev": -1e-6, "nv": -1e-6, "ls": -1e-16}
"""Entries of the inverse below these values count as negative; the values are from the code of CoLiDE and DAGMA."""
FAR = 1e16
"""Value that stands for the objective until the first check of a stage."""

NUMBERS = ("stage", "iteration", "mu", "s", "learning_rate", "objective")
ARRAYS = ("weight", "sigma", "mean", "square", "direction", "start_weight", "start_sigma")
"""Names under which the arrays of a path's state are stored in a checkpoint."""


@dataclass(frozen=True)
class Schedule:
    """Stages of the optimisation.

    Args:
        s: parameter s of h_s in each stage; a smaller s shrinks the domain of W.
        mu: weight mu of the score and the L1 penalty in the objective of the first stage.
        mu_factor: factor that multiplies mu from one stage to the next.
        warm_iterations: maximum number of iterations of each stage except the last.
        iterations: maximum number of iterations of the last stage.
        learning_rate: learning rate of Adam at the start of a stage.
        look_every: number of iterations between two checks of the objective; a stage ends early when the objective no
            longer changes.
    """

    s: Sequence[float] = (1.0, 0.9, 0.8, 0.7)
    mu: float = 1.0
    mu_factor: float = 0.1
    warm_iterations: int = 20_000
    iterations: int = 70_000
    learning_rate: float = 3e-4
    look_every: int = 1000

    def __post_init__(self) -> None:
        at_least(1, stages=len(self.s), warm_iterations=self.warm_iterations, iterations=self.iterations)
        at_least(1, look_every=self.look_every)
        positive(s=min(self.s), mu=self.mu, learning_rate=self.learning_rate)
        within(0, 1, "(]", mu_factor=self.mu_factor)

    def length(self, stage: int) -> int:
        """Return the maximum number of iterations of a stage."""
        return self.iterations if stage == len(self.s) - 1 else self.warm_iterations


class RegularizationPath:
    """Run the stages of a schedule, iteration by iteration.

    Args:
        nodes: number of nodes d of the graph.
        variant: `ev`, `nv` or `ls`; determines the score and the noise scales.
        penalty: weight lambda of the L1 penalty on W.
        schedule: settings of the stages.
    """

    def __init__(self, nodes: int, variant: Variant, penalty: float, schedule: Schedule) -> None:
        self.variant: Variant = variant
        self.penalty = penalty
        self.schedule = schedule
        self.weight = np.zeros((nodes, nodes))
        self.sigma = np.ones(nodes)
        self.stage = 0  # index of the stage; equal to the number of stages when the path is finished
        self.iteration = 0  # number of iterations in the current stage
        self.mu = schedule.mu
        self.s = schedule.s[0]
        self.learning_rate = schedule.learning_rate
        self.objective = FAR  # value at the last check in this stage
        self.mean, self.square, self.direction = (np.zeros_like(self.weight) for _ in range(3))  # Adam's state
        self.start: tuple[Array, Array] | None = None  # W and sigma at the start of the stage

    @property
    def finished(self) -> bool:
        """Whether all stages are complete."""
        return self.stage == len(self.schedule.s)

    @property
    def progress(self) -> str:
        """A description of the current stage, for a warning."""
        return f"stage {self.stage + 1} of {len(self.schedule.s)} of CoLiDE's path"

    def observe(self, cov: Array) -> None:
        """Set the covariance X^T X / n, `[d, d]`; call this method before the first iteration.

        For a new path, sigma is initialised to the standard deviations of the columns (`nv`), to the smallest of these
        standard deviations (`ev`), or to 1 (`ls`).
        """
        self.cov, self.identity = cov, np.eye(len(cov))
        self.floor = FLOOR * float(cov.diagonal().min()) ** 0.5
        self.product, self.variance = residual_covariances(self.weight, cov, self.identity)
        if self.start is None:
            variance = cov.diagonal()
            first = np.full_like(variance, variance.min()) if self.variant == "ev" else variance
            self.sigma[:] = noise_scale(first, self.variant)
            self._begin_stage()

    def value(self) -> float:
        """Compute the current stage's objective, mu (S + lambda ||W||_1) + h_s(W), for the current W and sigma."""
        fit = score(self.variance, self.sigma, self.variant)
        return self.mu * (fit + self.penalty * float(np.abs(self.weight).sum())) + self.acyclicity()

    def acyclicity(self) -> float:
        """Compute h_s(W) with the s of the current stage."""
        return acyclicity(self.weight, self.s)

    def iterate(self) -> None:
        """Run one iteration, or do nothing if the path is finished."""
        if self.finished:
            return
        inverse = self._inverse()
        while inverse.min() < OUTSIDE[self.variant]:
            if self.iteration == 0 or self.s <= 0.9:
                self._begin_stage_again()
                return
            self.weight += self.learning_rate * self.direction
            self.learning_rate /= 2
            if self.learning_rate <= LEAST_RATE:
                self._fit()
                self._end_stage()
                return
            self._step()
            inverse = self._inverse()
        self.iteration += 1
        self._turn(gradient(self.weight, self.product, self.sigma, inverse, self.mu, self.penalty))
        self._step()
        over = self.iteration == self.schedule.length(self.stage)
        if over or self.iteration % self.schedule.look_every == 0:
            before, self.objective = self.objective, self.value()
            if over or abs(before - self.objective) <= TOLERANCE * abs(before):
                self._end_stage()

    def _inverse(self) -> Array:
        """Compute (s I - W o W)^-1.

        If W is in the domain of h_s, all entries of this inverse are nonnegative.
        """
        return np.linalg.inv(self.s * self.identity - self.weight * self.weight)

    def _turn(self, slope: Array) -> None:
        """Update the Adam moments with the gradient `slope`, and compute the direction of the next step."""
        self.mean *= BETAS[0]
        self.mean += (1 - BETAS[0]) * slope
        self.square *= BETAS[1]
        self.square += (1 - BETAS[1]) * (slope * slope)
        first, second = (1 - beta**self.iteration for beta in BETAS)
        self.direction = self.mean / (first * (np.sqrt(self.square / second) + EPS))

    def _step(self) -> None:
        """Update W by one step along the direction, and set sigma to the minimiser of the score."""
        self.weight -= self.learning_rate * self.direction
        self._fit()

    def _fit(self) -> None:
        """Compute the residual variances for the current W, and set sigma to the minimiser of the score."""
        self.product, self.variance = residual_covariances(self.weight, self.cov, self.identity)
        self.sigma[:] = noise_scale(self.variance, self.variant, self.floor)

    def _begin_stage(self) -> None:
        self.iteration, self.objective = 0, FAR
        self.mean, self.square, self.direction = (np.zeros_like(self.weight) for _ in range(3))
        self.start = self.weight.copy(), self.sigma.copy()

    def _begin_stage_again(self) -> None:
        """Restart the stage with half the learning rate and with a larger s, which enlarges the domain."""
        assert self.start is not None
        self.weight[:], self.sigma[:] = self.start
        self.product, self.variance = residual_covariances(self.weight, self.cov, self.identity)
        self.learning_rate /= 2
        self.s += 0.1
        self._begin_stage()

    def _end_stage(self) -> None:
        """Start the next stage, or finish the path after the last stage."""
        self.stage += 1
        if not self.finished:
            self.mu, self.s = self.mu * self.schedule.mu_factor, self.schedule.s[self.stage]
            self.learning_rate = self.schedule.learning_rate
            self._begin_stage()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next iteration needs; it consists of numbers and tensors."""
        assert self.start is not None
        arrays = dict(zip(ARRAYS, (*(getattr(self, name) for name in ARRAYS[:-2]), *self.start), strict=True))
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return numbers | {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name in NUMBERS:
            setattr(self, name, state[name])
        *own, weight, sigma = (state[name].cpu().numpy().copy() for name in ARRAYS)
        for name, array in zip(ARRAYS, own, strict=False):
            setattr(self, name, array)
        self.start = weight, sigma
