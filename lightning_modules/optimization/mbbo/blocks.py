"""The lower levels: a row of stacked tensors for each block, of which an iteration touches those that were sampled."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of
from lightning_modules.distributed.independent import Hosted
from lightning_modules.optimization.mbbo.trackers import in_ball, msvr, with_eigenvalues_above


def sampled_blocks(seed: int, first: int, count: int, blocks: int, sampled: int, purpose: int = 0) -> Tensor:
    """Deal blocks out to iterations, `[count, I]`: each pass through all of them has an order of its own.

    Args:
        seed: of the orders.
        first: number of the first iteration, from 0.
        count: iterations.
        blocks: m.
        sampled: I, a divisor of m.
        purpose: of the sample; samples for different ones are independent.
    """
    length = blocks // sampled
    passes = range(first // length, (first + count - 1) // length + 1)
    orders = [torch.randperm(blocks, generator=generator_of(seed, purpose, number)) for number in passes]
    start = first - passes[0] * length
    return torch.cat(orders).view(-1, sampled)[start : start + count]


class BlockProblem(ABC):
    """Lower levels g_i and the f_i that judge their solutions, by derivatives on batches; f_i do not depend on x.

    Blocks are `[k]`, their variables y and v `[k, D]`, the upper variable x `[n]`. A batch is whatever `Step` has.
    """

    @abstractmethod
    def lower_gradient(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute grad_y g_i, `[k, D]`."""

    @abstractmethod
    def lower_hessian(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute the Hessian of g_i in y, `[k, D, D]`."""

    @abstractmethod
    def hessian_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        """Compute the product of this Hessian with v, `[k, D]`."""

    @abstractmethod
    def upper_gradient(self, y: Tensor, batch: Any) -> Tensor:
        """Compute grad_y f_i, `[k, D]`."""

    @abstractmethod
    def cross_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        """Sum the products of the mixed derivatives of g_i in x and y with v over blocks, `[n]`."""

    @abstractmethod
    def cross_derivative(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """Compute the mixed derivatives of g_i in x and y, `[k, n, D]`."""


class Rates(NamedTuple):
    """Numbers of the algorithm."""

    alpha: float
    """Weight of a sample in the trackers of blocks."""
    gamma: float
    """Weight of the change in them."""
    tau: float
    """Step size of y."""
    tau_v: float
    """Step size of v."""
    mu: float
    """Strong convexity of the lower levels: the least eigenvalue of a tracked Hessian."""
    radius: float
    """Of the ball that v stays in."""


def solved(hessian: Tensor, right: Tensor) -> Tensor:
    """Solve with positive definite matrices `[k, D, D]` for right sides `[k, D]`."""
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(hessian))[..., 0]


class HostedBlocks(Hosted):
    """Blocks of which each process has its part."""

    y: Tensor

    def hosted(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Say which of some blocks, on the host, this process has, and which of its rows they are, on its device."""
        place = ((blocks >= self.own.start) & (blocks < self.own.stop)).nonzero()[:, 0]
        return place, (blocks[place] - self.own.start).to(self.y.device, non_blocking=True)


class Blocks(HostedBlocks):
    """Variables and trackers of m blocks: y, s and, of v1, H, or, of v2, v and u; now and at the iterate before.

    Args:
        count: m.
        dim: D, numbers of a lower variable.
        variant: `v1` tracks Hessians and solves with them, `v2` follows the solutions v by Hessian-vector products.
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
        """Start the trackers of all of this process's blocks from a batch, and give the sum of -grad F_i, `[n]`."""
        self.s.copy_(problem.lower_gradient(x, self.y, batch))
        upper = problem.upper_gradient(self.y, batch)
        if self.variant == "v2":
            self.u.copy_(problem.hessian_product(x, self.y, self.v, batch) - upper)
            return problem.cross_product(x, self.y, self.v, batch)
        self.hessian.copy_(with_eigenvalues_above(problem.lower_hessian(x, self.y, batch), mu))
        return problem.cross_product(x, self.y, solved(self.hessian, upper), batch)

    def _iterates(self, rows: Tensor, iteration: int) -> list[tuple[Tensor, Tensor]]:
        """Give what moves, at this iterate and at the one before, and store the former for the next iteration.

        A block that was not sampled in the iteration before did not move in it.
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
        self, problem: BlockProblem, x: Tensor, x_before: Tensor, rows: Tensor, batch: Any, iteration: int, rates: Rates
    ) -> tuple[Tensor, Tensor]:
        """Take an iteration of the sampled blocks, and sum their products for the gradient of F.

        A block that was missed d - 1 times moves by d of its steps, along what it tracks after this epoch.

        Args:
            problem: derivatives.
            x: upper variable, `[n]`.
            x_before: that of the iterate before.
            rows: sampled blocks of this process, `[k]`.
            batch: of these blocks.
            iteration: number of the iteration, from 0.
            rates: numbers of the algorithm.

        Returns:
            The sum over these blocks of minus their sampled gradients of F, `[n]`, at this iterate and the one before.
        """
        alpha, gamma = rates.alpha, rates.gamma
        times = (iteration - self.visited[rows])[:, None].to(x)  # whole numbers times a rate would be float32
        (y, y_before), (other, other_before) = self._iterates(rows, iteration)
        now, before = problem.upper_gradient(y, batch), problem.upper_gradient(y_before, batch)
        slopes = problem.lower_gradient(x, y, batch), problem.lower_gradient(x_before, y_before, batch)
        s = msvr(self.s[rows], *slopes, alpha, gamma)
        if self.variant == "v1":
            v, v_before = solved(other, now), solved(other_before, before)
            curved = problem.lower_hessian(x, y, batch), problem.lower_hessian(x_before, y_before, batch)
            self.hessian[rows] = with_eigenvalues_above(msvr(other, *curved, alpha, gamma), rates.mu)
        else:
            v, v_before = other, other_before
            now = problem.hessian_product(x, y, v, batch) - now
            before = problem.hessian_product(x_before, y_before, v_before, batch) - before
            u = msvr(self.u[rows], now, before, alpha, gamma)
            self.u[rows] = u
            self.v[rows] = in_ball(v - rates.tau_v * times * u, rates.radius)
        self.s[rows] = s
        self.y[rows] = y - rates.tau * times * s
        self.visited[rows] = iteration
        products = problem.cross_product(x, y, v, batch), problem.cross_product(x_before, y_before, v_before, batch)
        return products
