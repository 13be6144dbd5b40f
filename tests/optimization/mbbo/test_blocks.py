"""Iterations of blocks on quadratic lower-level problems with known solutions.

The tests include RSVRB's trackers of all blocks.
"""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.blocks import (
    AllBlocks,
    BlockProblem,
    BlockRates,
    Blocks,
    Rates,
    course_tables,
    msvr,
    solve_systems,
    storm,
    tracking_errors,
    with_eigenvalues_above,
)
from tests.numbers import numbers


def test_the_tracker_of_blocks_has_plain_sampling_and_storm_as_limits() -> None:
    e, now, before = numbers(3, 4), numbers(3, 4, seed=1), numbers(3, 4, seed=2)
    assert torch.equal(msvr(e, now, before, 1.0, 0.0), now)
    torch.testing.assert_close(msvr(now, now, now, 0.3, 1.7), now)  # a constant is preserved once it is known
    torch.testing.assert_close(msvr(e, now, before, 0.3, 0.7), storm(e, now, before, 0.3))
    torch.testing.assert_close(msvr(e, now, before, 0.9, 1.0), 0.1 * e + 0.9 * now + now - before)


def test_without_a_move_storm_is_a_moving_average() -> None:
    z, gradient = numbers(5), numbers(5, seed=1)
    torch.testing.assert_close(storm(z, gradient, gradient, 0.2), 0.8 * z + 0.2 * gradient)


def test_the_projection_of_matrices_is_the_nearest_one_of_its_set() -> None:
    matrix = numbers(4, 5, 5)
    projected = with_eigenvalues_above(matrix, 0.3)
    torch.testing.assert_close(projected, projected.mT)
    assert torch.linalg.eigvalsh(projected).min() >= 0.3 - 1e-12
    torch.testing.assert_close(with_eigenvalues_above(projected, 0.3), projected)
    for seed in range(20):  # no other point of the set is closer
        other = numbers(4, 5, 5, seed=seed + 1)
        other = other @ other.mT + 0.3 * torch.eye(5)
        mixed = 0.9 * projected + 0.1 * other
        assert torch.all((projected - matrix).norm(dim=(1, 2)) <= (mixed - matrix).norm(dim=(1, 2)))


M, N, D = 6, 3, 4
VARIANTS = pytest.mark.parametrize("variant", ["v1", "v2"])
Variant = Literal["v1", "v2"]


class Quadratic(BlockProblem):
    """g_i = 1/2 (y - A_i x)^T Q_i (y - A_i x), f_i = 1/2 |y - b_i|^2; a batch contains the blocks' indices."""

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
        """Return the x that minimises sum_i |A_i x - b_i|^2."""
        return torch.linalg.lstsq(self.a.flatten(0, 1), self.b.flatten()[:, None]).solution[:, 0]


RATES, MU = BlockRates(alpha=0.5, gamma=0.5, tau=0.3, tau_v=0.3, radius=100.0), 0.5


def descended(
    variant: Variant, iterations: int, eta: float = 0.05, sampled: int = M
) -> tuple[Blocks, Tensor, Quadratic]:
    problem, blocks, everyone = Quadratic(), Blocks(M, D, variant), torch.arange(M)
    x = x_before = torch.zeros(N, dtype=torch.float64)
    z = -blocks.begin(problem, x, everyone, MU) / M
    random = torch.Generator().manual_seed(0)
    for number in range(iterations):
        rows = torch.randperm(M, generator=random)[:sampled]
        now, before = (-each / sampled for each in blocks.move(problem, x, x_before, rows, rows, number, RATES, MU))
        z = storm(z, now, before, 0.5)
        x_before, x = x, x - eta * z
    return blocks, x, problem


@VARIANTS
def test_without_noise_the_known_solution_is_reached(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 3000, 0.02)
    torch.testing.assert_close(x, problem.solution, rtol=0, atol=1e-8)
    torch.testing.assert_close(blocks.y, problem.a @ x, rtol=0, atol=1e-8)
    _, some, _ = descended(variant, 3000, 0.005, sampled=2)
    assert (some - problem.solution).norm() < 0.2 * problem.solution.norm()  # the sampled version fluctuates around it


@VARIANTS
def test_blocks_that_are_not_sampled_stay_as_they_are_to_the_bit(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 5, sampled=3)
    before = {name: each.clone() for name, each in blocks.named_buffers()}
    rows = torch.tensor([1, 4])
    blocks.move(problem, x, x, rows, rows, 5, RATES, MU)
    others = torch.tensor([0, 2, 3, 5])
    for name, each in blocks.named_buffers():
        assert torch.equal(each[others], before[name][others]), name
    assert not torch.equal(blocks.y[rows], before["y"][rows])


@VARIANTS
def test_a_missed_block_makes_up_for_its_steps_along_the_refreshed_tracker(variant: Variant) -> None:
    blocks, x, problem = descended(variant, 4)  # iteration 3 visited all blocks
    row = torch.tensor([2])
    y, stale = blocks.y[row].clone(), blocks.s[row].clone()
    rates = replace(RATES, tau=0.37, tau_v=0.41)
    blocks.move(problem, x, 0.9 * x, row, row, 8, rates, MU)
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
    now, _ = blocks.move(problem, x, x, rows, rows, 3, RATES, MU)
    torch.testing.assert_close(now, problem.cross_product(x, y, v, rows), rtol=0, atol=1e-10)


def test_tracked_hessians_are_symmetric_and_positive() -> None:
    blocks, _, _ = descended("v1", 20, sampled=2)
    torch.testing.assert_close(blocks.hessian, blocks.hessian.mT, rtol=0, atol=1e-14)
    assert torch.linalg.eigvalsh(blocks.hessian).min() >= MU * (1 - 2e-6)
    right = numbers(M, D)
    residual = (blocks.hessian @ solve_systems(blocks.hessian, right)[..., None])[..., 0] - right
    assert residual.abs().max() < 1e-8


@pytest.mark.parametrize("radius", [100.0, 0.3])
def test_v_is_the_solution_of_fixed_blocks_or_on_the_ball(radius: float) -> None:
    problem, blocks, rows = Quadratic(), Blocks(M, D, "v2"), torch.arange(M)
    x, rates = numbers(N, seed=7), replace(RATES, tau=1e-300, radius=radius)
    blocks.begin(problem, x, rows, MU)
    for number in range(300):
        blocks.move(problem, x, x, rows, rows, number, rates, MU)
        assert blocks.v.norm(dim=1).max() <= radius * (1 + 1e-12)
    solution = torch.linalg.solve(problem.q, -problem.b)  # y stays near 0
    if radius == 100.0:
        torch.testing.assert_close(blocks.v, solution, rtol=0, atol=1e-6)


EVERYONE = torch.arange(M)


def started(problem: Quadratic, x: Tensor) -> AllBlocks:
    blocks = AllBlocks(M, D, N)
    blocks.begin(problem, x, EVERYONE, 0.5)
    return blocks


def test_with_all_blocks_sampled_the_known_solution_is_reached() -> None:
    problem = Quadratic()
    x = x_before = torch.zeros(N, dtype=torch.float64)
    blocks = AllBlocks(M, D, N)
    z = -blocks.begin(problem, x, EVERYONE, 0.5) / M
    for _ in range(3000):
        products = blocks.move(problem, x, x_before, EVERYONE, EVERYONE, EVERYONE, 1.0, Rates(beta=0.5, tau=0.3), 0.5)
        now, before = (-each / M for each in products)
        z = storm(z, now, before, 0.5)
        x_before, x = x, x - 0.02 * z
    torch.testing.assert_close(x, problem.solution, rtol=0, atol=1e-8)


def test_what_is_tracked_of_the_gradient_is_that_of_the_trackers() -> None:
    problem, x = Quadratic(), numbers(N, seed=4)
    blocks = started(problem, x)
    found = blocks.begin(problem, x, EVERYONE, 0.5)
    v = torch.linalg.solve(problem.q, problem.upper_gradient(blocks.y, EVERYONE))
    torch.testing.assert_close(found, problem.cross_product(x, blocks.y, v, EVERYONE), rtol=0, atol=1e-12)


def test_a_sampled_block_counts_for_those_that_are_not_and_all_move() -> None:
    problem, x, x_before = Quadratic(), numbers(N, seed=4), numbers(N, seed=5)
    rows, others = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5])
    blocks = started(problem, x)
    blocks.y.copy_(numbers(M, D, seed=6))
    s, y, y_before = blocks.s.clone(), blocks.y.clone(), blocks.y_before.clone()
    blocks.move(problem, x, x_before, rows, rows, rows, 3.0, Rates(beta=0.4, tau=0.1), 1e-3)
    now, before = problem.lower_gradient(x, y[rows], rows), problem.lower_gradient(x_before, y_before[rows], rows)
    torch.testing.assert_close(blocks.s[rows], 0.6 * s[rows] + 3 * (now - 0.6 * before), rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.s[others], 0.6 * s[others], rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.y, y - 0.1 * blocks.s, rtol=0, atol=1e-14)
    assert torch.equal(blocks.y_before, y)


def test_a_sample_of_blocks_is_unbiased() -> None:
    """The mean over all pairs of six blocks equals the result of all blocks."""
    problem, x, x_before = Quadratic(), numbers(N, seed=4), numbers(N, seed=5)
    total, pairs = torch.zeros(M, D, dtype=torch.float64), torch.combinations(EVERYONE)
    for rows in pairs:
        blocks = started(problem, x)
        blocks.move(problem, x, x_before, rows, rows, rows, 3.0, Rates(beta=0.4, tau=0.1), 1e-3)
        total += blocks.s / len(pairs)
    blocks = started(problem, x)
    blocks.move(problem, x, x_before, EVERYONE, EVERYONE, EVERYONE, 1.0, Rates(beta=0.4, tau=0.1), 1e-3)
    torch.testing.assert_close(total, blocks.s, rtol=0, atol=1e-12)


@pytest.mark.parametrize("least", [0.5, 2.0])
def test_hessians_that_decay_keep_their_least_eigenvalue(least: float) -> None:
    problem, x = Quadratic(), numbers(N, seed=4)
    blocks, rows = started(problem, x), torch.tensor([1, 4])
    for _ in range(4):
        blocks.move(problem, x, x, rows, rows, rows, 3.0, Rates(beta=0.9, tau=0.1), least)
    assert torch.linalg.eigvalsh(blocks.hessian).min() >= least * (1 - 2e-6)


def test_errors_are_distances_from_the_exact_derivatives() -> None:
    problem, blocks, everyone = Quadratic(), Blocks(M, D, "v1"), torch.arange(M)
    x, y = numbers(N, seed=4).requires_grad_(), numbers(M, D, seed=5)
    blocks.y.copy_(y)
    blocks.s.copy_(problem.lower_gradient(x.detach(), y, everyone) + 0.5)
    # grad F at y = y_i(x) is the gradient of the mean of f_i(A_i x); at other points, only y differs
    solution = problem.a @ x
    blocks.y.copy_(solution.detach())
    exact = torch.autograd.grad((solution - problem.b).square().sum() / 2 / M, x)[0]
    found = tracking_errors(blocks, problem, x.detach(), exact + 0.25, everyone)
    assert found["error of z"].item() == pytest.approx(0.25 * N**0.5)
    shift = problem.lower_gradient(x.detach(), y, everyone) + 0.5  # the gradient is 0 at the solution
    assert found["error of s"].item() == pytest.approx(shift.square().sum(1).mean().sqrt().item())


def test_weights_are_a_table_where_labels_are_false() -> None:
    row = {"iteration": 5, "objective": 0.5, "error of s": 0.1, "clean weight": 0.9, "flipped weight": 0.2}
    history = [{name: torch.tensor(value) for name, value in row.items()}] * 2
    made = course_tables(history, corrupted=True)
    assert list(made["course"].columns) == ["iteration", "objective", "error of s"]
    assert made["course"].logarithmic == ["error of s"]
    assert made["weights"].columns["samples"] == ["clean", "clean", "flipped", "flipped"]
    assert list(course_tables(history, corrupted=False)) == ["course"]
