"""Lower levels of which all move in each iteration, along trackers of their derivatives (RSVRB)."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.blocks import BlockProblem, HostedBlocks, solved
from lightning_modules.optimization.mbbo.trackers import with_eigenvalues_above


class AllBlocks(HostedBlocks):
    """Models of m blocks, and trackers of their grad_y g, grad_y f, and second derivatives of g in y, and in x and y.

    Each follows one vector of all blocks, whose unbiased sample is that of sampled blocks times m/I and 0 elsewhere,

        e_i <- (1 - beta) e_i + (m/I) (h_i - (1 - beta) h_i')    if i is sampled,    (1 - beta) e_i    otherwise,

    with h and h' of one batch at this iterate and the one before.

    Args:
        count: m.
        dim: D, numbers of a lower variable.
        samples: n, numbers of the upper variable.
    """

    y: Tensor
    y_before: Tensor
    s: Tensor
    upper: Tensor
    hessian: Tensor
    cross: Tensor

    def __init__(self, count: int, dim: int, samples: int) -> None:
        super().__init__(count)
        for name in ("y", "y_before", "s", "upper"):
            self.register_buffer(name, torch.zeros(count, dim, dtype=torch.float64))
        self.register_buffer("hessian", torch.zeros(count, dim, dim, dtype=torch.float64))
        self.register_buffer("cross", torch.zeros(count, samples, dim, dtype=torch.float64))

    @staticmethod
    def _derivatives(problem: BlockProblem, x: Tensor, y: Tensor, batch: Any) -> dict[str, Tensor]:
        return {
            "s": problem.lower_gradient(x, y, batch),
            "upper": problem.upper_gradient(y, batch),
            "hessian": problem.lower_hessian(x, y, batch),
            "cross": problem.cross_derivative(x, y, batch),
        }

    def begin(self, problem: BlockProblem, x: Tensor, batch: Any, mu: float) -> Tensor:
        """Start the trackers of all of this process's blocks from a batch, and give the sum of -grad F_i, `[n]`."""
        for name, value in self._derivatives(problem, x, self.y, batch).items():
            getattr(self, name).copy_(value)
        self.hessian.copy_(with_eigenvalues_above(self.hessian, mu))
        return self._products(torch.arange(len(self.y), device=self.y.device))

    def _products(self, rows: Tensor) -> Tensor:
        v = solved(self.hessian[rows], self.upper[rows])
        return (self.cross[rows] @ v[..., None])[..., 0].sum(0)

    def move(
        self,
        problem: BlockProblem,
        x: Tensor,
        x_before: Tensor,
        rows: Tensor,
        judged: Tensor,
        batch: Any,
        scale: float,
        beta: float,
        tau: float,
        mu: float,
    ) -> tuple[Tensor, Tensor]:
        """Take an iteration of all blocks, and sum what is tracked of -grad F_i over a second sample of them.

        Args:
            problem: derivatives.
            x: upper variable, `[n]`.
            x_before: that of the iterate before.
            rows: sampled blocks of this process.
            judged: those of the second sample.
            batch: of `rows`.
            scale: m/I.
            beta: weight of a sample.
            tau: step size of y.
            mu: least eigenvalue of a tracked Hessian.

        Returns:
            The sums `[n]` by the trackers after and before this iteration.
        """
        before = self._products(judged)
        now = self._derivatives(problem, x, self.y[rows], batch)
        past = self._derivatives(problem, x_before, self.y_before[rows], batch)
        for name, value in now.items():
            tracked = getattr(self, name)
            tracked.mul_(1 - beta)
            tracked[rows] += scale * (value - (1 - beta) * past[name])
        self.hessian.copy_(with_eigenvalues_above(self.hessian, mu))
        self.y_before.copy_(self.y)
        self.y.sub_(tau * self.s)
        return self._products(judged), before
