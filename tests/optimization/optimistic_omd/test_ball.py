"""Projections onto the ball, checked with their defining properties."""

import pytest
import torch

from lightning_modules.optimization.optimistic_omd.ball import project_in_norm, project_points
from tests.numbers import numbers


def test_a_projection_is_idempotent_and_non_expansive() -> None:
    points, others = 2 * numbers(200, 4), 2 * numbers(200, 4, seed=1)
    near, also = project_points(points, 1.5), project_points(others, 1.5)
    torch.testing.assert_close(project_points(near, 1.5), near, rtol=0, atol=1e-15)
    assert ((near - also).norm(dim=1) <= (points - others).norm(dim=1) + 1e-12).all()
    inside = points.norm(dim=1) <= 1.5
    assert 0 < inside.sum() < 200
    assert torch.equal(near[inside], points[inside])
    torch.testing.assert_close(near[~inside], 1.5 * points[~inside] / points[~inside].norm(dim=1, keepdim=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.001, 3.0, 1e4])
def test_a_projection_in_another_norm_satisfies_its_variational_inequality(seed: int, scale: float) -> None:
    root = numbers(6, 6, seed=seed)
    h = root @ root.T + 1e-3 * torch.eye(6, dtype=torch.float64)
    x = numbers(6, seed=seed + 9)
    x *= scale * 0.8 / x.norm()
    y = project_in_norm(x, h, 0.8)
    assert y.norm().item() == pytest.approx(0.8, abs=1e-10)
    others = project_points(numbers(2000, 6, seed=5), 0.8)
    assert ((others - y) @ (h @ (y - x)) >= -1e-8 * scale).all()
    torch.testing.assert_close(project_in_norm(0.5 * y, h, 0.8), 0.5 * y)


def test_in_the_euclidean_norm_both_are_one() -> None:
    x = 5 * numbers(6)
    torch.testing.assert_close(project_in_norm(x, 3 * torch.eye(6, dtype=torch.float64), 1.0), project_points(x, 1.0))
