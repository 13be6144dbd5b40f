import pytest
import torch

from lightning_modules.optimization.mbbo.blocks import Blocks
from lightning_modules.optimization.mbbo.course import course_tables, tracking_errors
from tests.optimization.mbbo.test_blocks import D, M, N, Quadratic, numbers


def test_errors_are_distances_from_the_exact_derivatives() -> None:
    problem, blocks, everyone = Quadratic(), Blocks(M, D, "v1"), torch.arange(M)
    x, y = numbers(N, seed=4).requires_grad_(), numbers(M, D, seed=5)
    blocks.y.copy_(y)
    blocks.s.copy_(problem.lower_gradient(x.detach(), y, everyone) + 0.5)
    # grad F at y = y_i(x) is that of the mean of f_i(A_i x); elsewhere y alone is another one
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
