"""The iterations of blocks on quadratic lower levels, whose solution is known."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.blocks import BlockProblem, Blocks, Rates, solved
from lightning_modules.optimization.mbbo.trackers import storm

M, N, D = 6, 3, 4
VARIANTS = pytest.mark.parametrize("variant", ["v1", "v2"])
Variant = Literal["v1", "v2"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic(BlockProblem):
    """g_i = 1/2 (y - A_i x)^T Q_i (y - A_i x), f_i = 1/2 |y - b_i|^2; a batch is the blocks' numbers."""

    def __init__(self) -> None:
        self.a, self.b, root = numbers(M, D, N), numbers(M, D, seed=1), 0.3 * numbers(M, D, D, seed=2)
        self.q = torch.eye(D, dtype=torch.float64) + root @ root.mT

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        return self.hessian_product(x, y, y - self.a[batch] @ x, batch)

    def lower_hessian(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        return self.q[batch]

    def hessian_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        return (self.q[batch] @ v[..., None])[..., 0]

    def upper_gradient(self, y: Tensor, batch: Any) -> Tensor:
        return y - self.b[batch]

    def cross_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Any) -> Tensor:
        return -torch.einsum("kdn,kd->n", self.a[batch], self.hessian_product(x, y, v, batch))

    def cross_derivative(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        return -self.a[batch].mT @ self.q[batch]

    @property
    def solution(self) -> Tensor:
        """The x at which sum_i |A_i x - b_i|^2 is least."""
        return torch.linalg.lstsq(self.a.flatten(0, 1), self.b.flatten()[:, None]).solution[:, 0]


RATES = Rates(alpha=0.5, gamma=0.5, tau=0.3, tau_v=0.3, mu=0.5, radius=100.0)


def descended(
    variant: Variant, iterations: int, eta: float = 0.05, sampled: int = M
) -> tuple[Blocks, Tensor, Quadratic]:
    problem, blocks, everyone = Quadratic(), Blocks(M, D, variant), torch.arange(M)
    x = x_before = torch.zeros(N, dtype=torch.float64)
    z = -blocks.begin(problem, x, everyone, RATES.mu) / M
    random = torch.Generator().manual_seed(0)
    for number in range(iterations):
        rows = torch.randperm(M, generator=random)[:sampled]
        now, before = (-each / sampled for each in blocks.move(problem, x, x_before, rows, rows, number, RATES))
        z = storm(z, now, before, 0.5)
        x_before, x = x, x - eta * z
    return blocks, x, problem


@VARIANTS
def test_without_noise_the_known_solution_is_reached(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 3000, 0.02)
    torch.testing.assert_close(x, problem.solution, rtol=0, atol=1e-8)
    torch.testing.assert_close(blocks.y, problem.a @ x, rtol=0, atol=1e-8)
    _, some, _ = descended(variant, 3000, 0.005, sampled=2)
    assert (some - problem.solution).norm() < 0.2 * problem.solution.norm()  # what is sampled moves around it


@VARIANTS
def test_blocks_that_are_not_sampled_stay_as_they_are_to_the_bit(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 5, sampled=3)
    before = {name: each.clone() for name, each in blocks.named_buffers()}
    rows = torch.tensor([1, 4])
    blocks.move(problem, x, x, rows, rows, 5, RATES)
    others = torch.tensor([0, 2, 3, 5])
    for name, each in blocks.named_buffers():
        assert torch.equal(each[others], before[name][others]), name
    assert not torch.equal(blocks.y[rows], before["y"][rows])


@VARIANTS
def test_a_missed_block_makes_up_for_its_steps_along_the_refreshed_tracker(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 4)  # all were visited in iteration 3
    row = torch.tensor([2])
    y, stale = blocks.y[row].clone(), blocks.s[row].clone()
    rates = RATES._replace(tau=0.37, tau_v=0.41)
    blocks.move(problem, x, 0.9 * x, row, row, 8, rates)
    torch.testing.assert_close(blocks.y[row], y - 0.37 * 5 * blocks.s[row], rtol=0, atol=1e-14)
    assert not torch.equal(blocks.s[row], stale)
    if variant == "v2":
        v = blocks.v_before[row] - 0.41 * 5 * blocks.u[row]
        torch.testing.assert_close(blocks.v[row], v, rtol=0, atol=1e-14)
    assert blocks.visited.tolist() == [3, 3, 8, 3, 3, 3]


@VARIANTS
def test_products_are_of_the_values_before_the_iteration(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 3)
    rows = torch.arange(M)
    y, v = blocks.y.clone(), blocks.v.clone() if variant == "v2" else None
    if variant == "v1":
        v = torch.linalg.solve(blocks.hessian, y - problem.b)
    assert v is not None
    now, _ = blocks.move(problem, x, x, rows, rows, 3, RATES)
    torch.testing.assert_close(now, problem.cross_product(x, y, v, rows), rtol=0, atol=1e-10)


def test_tracked_hessians_are_symmetric_and_positive() -> None:
    blocks, _, _ = descended("v1", 20, sampled=2)
    torch.testing.assert_close(blocks.hessian, blocks.hessian.mT, rtol=0, atol=1e-14)
    assert torch.linalg.eigvalsh(blocks.hessian).min() >= RATES.mu * (1 - 2e-6)
    right = numbers(M, D)
    residual = (blocks.hessian @ solved(blocks.hessian, right)[..., None])[..., 0] - right
    assert residual.abs().max() < 1e-8


@pytest.mark.parametrize("radius", [100.0, 0.3])
def test_v_is_the_solution_of_fixed_blocks_or_on_the_ball(radius: float) -> None:
    problem, blocks, rows = Quadratic(), Blocks(M, D, "v2"), torch.arange(M)
    x, rates = numbers(N, seed=7), RATES._replace(tau=0.0, radius=radius)
    blocks.begin(problem, x, rows, rates.mu)
    for number in range(300):
        blocks.move(problem, x, x, rows, rows, number, rates)
        assert blocks.v.norm(dim=1).max() <= radius * (1 + 1e-12)
    solution = torch.linalg.solve(problem.q, -problem.b)  # y stays 0
    if radius == 100.0:
        torch.testing.assert_close(blocks.v, solution, rtol=0, atol=1e-6)
