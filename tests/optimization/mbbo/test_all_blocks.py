"""RSVRB's trackers of all blocks on quadratic lower levels, whose solution is known."""

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.all_blocks import AllBlocks
from lightning_modules.optimization.mbbo.trackers import storm
from tests.optimization.mbbo.test_blocks import D, M, N, Quadratic, numbers

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
        products = blocks.move(problem, x, x_before, EVERYONE, EVERYONE, EVERYONE, 1.0, 0.5, 0.3, 0.5)
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
    blocks.move(problem, x, x_before, rows, rows, rows, 3.0, 0.4, 0.1, 1e-3)
    now, before = problem.lower_gradient(x, y[rows], rows), problem.lower_gradient(x_before, y_before[rows], rows)
    torch.testing.assert_close(blocks.s[rows], 0.6 * s[rows] + 3 * (now - 0.6 * before), rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.s[others], 0.6 * s[others], rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.y, y - 0.1 * blocks.s, rtol=0, atol=1e-14)
    assert torch.equal(blocks.y_before, y)


def test_a_sample_of_blocks_is_unbiased() -> None:
    """The mean over all samples of two of six blocks is what all of them give."""
    problem, x, x_before = Quadratic(), numbers(N, seed=4), numbers(N, seed=5)
    total, pairs = torch.zeros(M, D, dtype=torch.float64), torch.combinations(EVERYONE)
    for rows in pairs:
        blocks = started(problem, x)
        blocks.move(problem, x, x_before, rows, rows, rows, 3.0, 0.4, 0.1, 1e-3)
        total += blocks.s / len(pairs)
    blocks = started(problem, x)
    blocks.move(problem, x, x_before, EVERYONE, EVERYONE, EVERYONE, 1.0, 0.4, 0.1, 1e-3)
    torch.testing.assert_close(total, blocks.s, rtol=0, atol=1e-12)


@pytest.mark.parametrize("least", [0.5, 2.0])
def test_hessians_that_decay_keep_their_least_eigenvalue(least: float) -> None:
    problem, x = Quadratic(), numbers(N, seed=4)
    blocks, rows = started(problem, x), torch.tensor([1, 4])
    for _ in range(4):
        blocks.move(problem, x, x, rows, rows, rows, 3.0, 0.9, 0.1, least)
    assert torch.linalg.eigvalsh(blocks.hessian).min() >= least * (1 - 2e-6)
