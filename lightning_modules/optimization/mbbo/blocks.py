"""Lower-level variables and the trackers of their derivatives, stored with one row per block.

In BSVRB, an iteration updates only the rows of the sampled blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.distributed.collectives import all_reduce_sum
from datamodules.randomness.generators import generator_of
from lightning_modules.distributed.independent import Hosted
from lightning_modules.interfaces import Table
from lightning_modules.linear_algebra import project_onto_ball

SLACK = 1e-6
"""Relative tolerance when testing whether eigenvalues satisfy their lower bound."""


def msvr(tracked: Tensor, now: Tensor, before: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the MSVR update (1 - alpha) e + alpha h + gamma (h - h') of the trackers of the sampled blocks.

    Args:
        tracked: trackers e of the sampled blocks, `[I, ...]`.
        now: derivative h at the current iterate, computed from a batch.
        before: derivative h' at the previous iterate, computed from the same batch.
        alpha: weight of the batch, in (0, 1].
        gamma: weight of the variance-reduction term h - h'; the value 1 - alpha gives STORM.
    """
    return (1 - alpha) * tracked + (alpha + gamma) * now - gamma * before


def storm(tracked: Tensor, now: Tensor, before: Tensor, beta: float) -> Tensor:
    """Compute the STORM update (1 - beta) (z - G') + G of the tracked gradient z.

    G at the current iterate and G' at the previous iterate are computed from the same batch.
    """
    return (1 - beta) * (tracked - before) + now


def with_eigenvalues_above(matrix: Tensor, least: float) -> Tensor:
    """Project square matrices `[k, D, D]` onto symmetric matrices whose eigenvalues are at least `least`.

    A Cholesky factorisation tests whether the bound holds, with a relative tolerance of 1e-6. Computing eigenvalues
    takes ten times as long, and is only done for matrices that fail the test.
    """
    symmetric = (matrix + matrix.mT) / 2
    lowered = symmetric - (1 - SLACK) * least * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    outside = torch.linalg.cholesky_ex(lowered)[1].nonzero()[:, 0]
    if len(outside):
        values, vectors = torch.linalg.eigh(symmetric[outside])
        symmetric[outside] = (vectors * values.clamp(min=least)[:, None]) @ vectors.mT
    return symmetric


def sampled_blocks(seed: int, first: int, count: int, blocks: int, sampled: int, purpose: int = 0) -> Tensor:
    """Sample the indices, `[count, I]`, of the blocks that several iterations update.

    The blocks are visited in passes over all blocks, and each pass has a new random order.

    Args:
        seed: random seed for the order of blocks.
        first: index of the first iteration, from 0.
        count: number of iterations.
        blocks: total number m of blocks.
        sampled: number I of blocks that each iteration samples, a divisor of m.
        purpose: integer that identifies what the sample is used for; different integers give independent samples.
    """
    length = blocks // sampled
    passes = range(first // length, (first + count - 1) // length + 1)
    orders = [torch.randperm(blocks, generator=generator_of(seed, purpose, number)) for number in passes]
    start = first - passes[0] * length
    return torch.cat(orders).view(-1, sampled)[start : start + count]


class BlockProblem(ABC):
    """Derivatives of the lower-level functions g_i and of the upper-level functions f_i on batches.

    The upper-level functions f_i do not depend on x.

    The variables y and v of k blocks have the shape `[k, D]`, and the upper-level variable x has the shape `[n]`.
    Batches may have any type, because only the methods of this class read them.
    """

    @abstractmethod
    def lower_gradient(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute the gradients of g_i with respect to y; the result is `[k, D]`."""

    @abstractmethod
    def lower_hessian(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute the Hessians of g_i with respect to y; the result is `[k, D, D]`."""

    @abstractmethod
    def hessian_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        """Multiply the Hessians of g_i with respect to y by the vectors v; the result is `[k, D]`."""

    @abstractmethod
    def upper_gradient(self, y: Tensor, batch: Any) -> Tensor:
        """Compute the gradients of f_i with respect to y; the result is `[k, D]`."""

    @abstractmethod
    def cross_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        """Multiply the mixed derivatives of g_i in x and y by the vectors v, and return the sum over blocks, `[n]`."""

    @abstractmethod
    def cross_derivative(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute the mixed derivatives of g_i with respect to x and y; the result is `[k, n, D]`."""


@dataclass(frozen=True)
class Rates:
    """Step sizes and weights of the bilevel algorithm.

    Args:
        eta: step size of the upper-level variable x; with 0, all sample weights remain one half.
        beta: weight of the current batch in the tracked gradient of x, in (0, 1].
        tau: step size of the lower-level variables y.
    """

    eta: float = 1e-3
    beta: float = 0.9
    tau: float = 0.5

    def __post_init__(self) -> None:
        at_least(0, **{"rates.eta": self.eta})
        within(0, 1, "(]", **{"rates.beta": self.beta})
        positive(**{"rates.tau": self.tau})


@dataclass(frozen=True)
class BlockRates(Rates):
    """Step sizes and weights of BSVRB.

    Args:
        eta: step size of the upper-level variable x; with 0, all sample weights remain one half.
        beta: weight of the current batch in the tracked gradient of x, in (0, 1].
        tau: step size of the lower-level variables y.
        tau_v: step size of the tracked solutions v of variant `v2`.
        radius: radius of the ball onto which v is projected.
        alpha: weight of the current batch in the trackers of the blocks, in (0, 1].
        gamma: weight of the variance-reduction term in the trackers of the blocks.
    """

    tau_v: float = 1.0
    radius: float = 10.0
    alpha: float = 0.9
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(**{"rates.tau_v": self.tau_v, "rates.radius": self.radius})
        within(0, 1, "(]", **{"rates.alpha": self.alpha})
        at_least(0, **{"rates.gamma": self.gamma})


def solve_systems(hessian: Tensor, right: Tensor) -> Tensor:
    """Solve linear systems with positive definite matrices `[k, D, D]` and right-hand sides `[k, D]`."""
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(hessian))[..., 0]


class HostedBlocks(Hosted):
    """Base class for the variables and trackers of blocks.

    The blocks are sharded over ranks.
    """

    y: Tensor

    def select_hosted(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Select the given blocks that belong to this rank.

        Return the positions of these blocks in `blocks` as a CPU tensor, and their row indices on this rank as a device
        tensor.
        """
        place = ((blocks >= self.own.start) & (blocks < self.own.stop)).nonzero()[:, 0]
        return place, (blocks[place] - self.own.start).to(self.y.device, non_blocking=True)


class Blocks(HostedBlocks):
    """Variables and trackers of m blocks for BSVRB, at the current and the previous iterate.

    The variables and trackers are y, s, and either H (v1) or v and u (v2).

    Args:
        count: number m of blocks.
        dim: dimension D of the lower-level variable of a block.
        variant: variant of the algorithm. `v1` tracks Hessians and solves linear systems with them. `v2` tracks the
            solutions v of these systems by Hessian-vector products.
    """

    y: Tensor
    y_before: Tensor
    s: Tensor
    hessian: Tensor
    hessian_before: Tensor
    v: Tensor
    v_before: Tensor
    u: Tensor
    visited: Tensor

    def __init__(self, count: int, dim: int, variant: Literal["v1", "v2"]) -> None:
        super().__init__(count)
        self.variant = variant
        self.moved = {"v1": ("y", "hessian"), "v2": ("y", "v")}[variant]
        for name in ("y", "y_before", "s", *(("v", "v_before", "u") if variant == "v2" else ())):
            self.register_buffer(name, torch.zeros(count, dim, dtype=torch.float64))
        for name in ("hessian", "hessian_before") if variant == "v1" else ():
            self.register_buffer(name, torch.zeros(count, dim, dim, dtype=torch.float64))
        self.register_buffer("visited", torch.full((count,), -1))

    def begin(self, problem: BlockProblem, x: Tensor, batch: Any, mu: float) -> Tensor:
        """Initialise the trackers of this rank's blocks from a batch.

        Return the sum of -grad F_i over the blocks of this rank, `[n]`.
        """
        self.s.copy_(problem.lower_gradient(x, self.y, batch))
        upper = problem.upper_gradient(self.y, batch)
        if self.variant == "v2":
            self.u.copy_(problem.hessian_product(x, self.y, self.v, batch) - upper)
            return problem.cross_product(x, self.y, self.v, batch)
        self.hessian.copy_(with_eigenvalues_above(problem.lower_hessian(x, self.y, batch), mu))
        return problem.cross_product(x, self.y, solve_systems(self.hessian, upper), batch)

    def _iterates(self, rows: Tensor, iteration: int) -> list[tuple[Tensor, Tensor]]:
        """Return the variables that an iteration changes, at the current and at the previous iterate.

        This method also stores the current variables for the next call.

        For blocks that the previous iteration did not sample, the values at both iterates are equal.
        """
        moved = (self.visited[rows] == iteration - 1) & (iteration > 0)
        pairs = []
        for name in self.moved:
            now, stored = getattr(self, name)[rows], getattr(self, f"{name}_before")
            before = torch.where(moved.view(-1, *[1] * (now.ndim - 1)), stored[rows], now)
            stored[rows] = now
            pairs.append((now, before))
        return pairs

    def move(
        self,
        problem: BlockProblem,
        x: Tensor,
        x_before: Tensor,
        rows: Tensor,
        batch: Any,
        iteration: int,
        rates: BlockRates,
        mu: float,
    ) -> tuple[Tensor, Tensor]:
        """Update the sampled blocks, and sum their contributions to -grad F.

        A block whose last update was d iterations ago takes d steps along its updated tracker.

        Args:
            problem: problem that computes the derivatives.
            x: upper-level variable, `[n]`.
            x_before: upper-level variable of the previous iterate.
            rows: row indices, `[k]`, of the sampled blocks on this rank.
            batch: batch that contains samples for these blocks.
            iteration: index of the current iteration, from 0.
            rates: step sizes and weights of the algorithm.
            mu: lower bound on the eigenvalues of a tracked Hessian.

        Returns:
            The estimates of -grad F_i, summed over these blocks, `[n]`, at the current and at the previous iterate.
        """
        alpha, gamma = rates.alpha, rates.gamma
        times = (iteration - self.visited[rows])[:, None].to(x)  # an integer tensor times a rate would be float32
        (y, y_before), (other, other_before) = self._iterates(rows, iteration)
        now, before = problem.upper_gradient(y, batch), problem.upper_gradient(y_before, batch)
        slopes = problem.lower_gradient(x, y, batch), problem.lower_gradient(x_before, y_before, batch)
        s = msvr(self.s[rows], *slopes, alpha, gamma)
        if self.variant == "v1":
            v, v_before = solve_systems(other, now), solve_systems(other_before, before)
            curved = problem.lower_hessian(x, y, batch), problem.lower_hessian(x_before, y_before, batch)
            self.hessian[rows] = with_eigenvalues_above(msvr(other, *curved, alpha, gamma), mu)
        else:
            v, v_before = other, other_before
            now = problem.hessian_product(x, y, v, batch) - now
            before = problem.hessian_product(x_before, y_before, v_before, batch) - before
            u = msvr(self.u[rows], now, before, alpha, gamma)
            self.u[rows] = u
            self.v[rows] = project_onto_ball(v - rates.tau_v * times * u, rates.radius)
        self.s[rows] = s
        self.y[rows] = y - rates.tau * times * s
        self.visited[rows] = iteration
        products = problem.cross_product(x, y, v, batch), problem.cross_product(x_before, y_before, v_before, batch)
        return products


class AllBlocks(HostedBlocks):
    """Models of m blocks, and trackers of grad_y g, grad_y f, grad^2_yy g and grad^2_xy g for RSVRB.

    Each tracker covers all blocks. The derivatives of all blocks are estimated without bias: the estimate is m/I times
    the derivative for a sampled block, and 0 for any other block. The update of a tracker is

        e_i <- (1 - beta) e_i + (m/I) (h_i - (1 - beta) h_i')    if i is sampled,    (1 - beta) e_i    otherwise,

    where h and h' are derivatives at the current and at the previous iterate, computed from the same batch.

    Args:
        count: number m of blocks.
        dim: dimension D of the lower-level variable of a block.
        samples: dimension n of the upper-level variable.
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
        """Initialise the trackers of this rank's blocks from a batch.

        Return the sum of -grad F_i over the blocks of this rank, `[n]`.
        """
        for name, value in self._derivatives(problem, x, self.y, batch).items():
            getattr(self, name).copy_(value)
        self.hessian.copy_(with_eigenvalues_above(self.hessian, mu))
        return self._products(torch.arange(len(self.y), device=self.y.device))

    def _products(self, rows: Tensor) -> Tensor:
        v = solve_systems(self.hessian[rows], self.upper[rows])
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
        rates: Rates,
        mu: float,
    ) -> tuple[Tensor, Tensor]:
        """Update all blocks, and sum the tracked -grad F_i over a second sample of blocks.

        The derivatives are computed only for the first sample of blocks.

        Args:
            problem: problem that computes the derivatives.
            x: upper-level variable, `[n]`.
            x_before: upper-level variable of the previous iterate.
            rows: row indices of the blocks on this rank that belong to the first sample.
            judged: row indices of the blocks on this rank that belong to the second sample.
            batch: batch that contains samples for the blocks in `rows`.
            scale: factor m/I in the estimates of the derivatives.
            rates: step sizes, and the weight beta of the current batch in the trackers.
            mu: lower bound on the eigenvalues of a tracked Hessian.

        Returns:
            The sums, `[n]`, after and before this update.
        """
        before = self._products(judged)
        now = self._derivatives(problem, x, self.y[rows], batch)
        past = self._derivatives(problem, x_before, self.y_before[rows], batch)
        for name, value in now.items():
            tracked = getattr(self, name)
            tracked.mul_(1 - rates.beta)
            tracked[rows] += scale * (value - (1 - rates.beta) * past[name])
        self.hessian.copy_(with_eigenvalues_above(self.hessian, mu))
        self.y_before.copy_(self.y)
        self.y.sub_(rates.tau * self.s)
        return self._products(judged), before


def tracking_errors(blocks: Blocks, problem: BlockProblem, x: Tensor, z: Tensor, everything: Any) -> dict[str, Tensor]:
    """Compute the tracking errors at the current iterate: the distances from s to grad g, and from z to grad F.

    Args:
        blocks: blocks of this rank; every rank must call this function.
        problem: problem that computes the derivatives.
        x: upper-level variable, `[n]`.
        z: tracked gradient of the upper-level function F, `[n]`.
        everything: batch that contains all samples for these blocks.
    """
    y = blocks.y
    errors = (blocks.s - problem.lower_gradient(x, y, everything)).square().sum(1)
    hessian, right = problem.lower_hessian(x, y, everything), problem.upper_gradient(y, everything)
    solved = torch.linalg.solve_ex(hessian, right)[0]  # positive definite; a check would synchronise with the host
    exact = -all_reduce_sum(problem.cross_product(x, y, solved, everything)) / blocks.count
    return {"error of s": (all_reduce_sum(errors.sum()) / blocks.count).sqrt(), "error of z": (z - exact).norm()}


def course_tables(history: Sequence[Mapping[str, Tensor]], corrupted: bool) -> dict[str, Table]:
    """Return tables of the objective and the tracking errors over the iterations.

    If some labels are false, a second table contains the mean weights of samples with true and with false labels.

    Args:
        history: measured values by name, one mapping per training step.
        corrupted: whether at least one training row has a false label.
    """
    columns = {name: [row[name].item() for row in history] for name in history[0]}
    weights = {name: columns.pop(f"{name} weight") for name in ("clean", "flipped")}
    made = {"course": Table(columns, logarithmic=[name for name in columns if name.startswith("error")])}
    if corrupted:
        samples = [name for name in weights for _ in history]
        weight = [*weights["clean"], *weights["flipped"]]
        made["weights"] = Table({"iteration": columns["iteration"] * 2, "samples": samples, "mean weight": weight})
    return made
