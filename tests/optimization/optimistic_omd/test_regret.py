"""The best fixed points in hindsight equal those of independent solvers."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lightning_modules.optimization.optimistic_omd.ball import project_points
from lightning_modules.optimization.optimistic_omd.regret import (
    excess_risk,
    growth_exponent,
    least_of_quadratic,
    least_on_ball,
    quadratic,
    regret_of_quadratics,
)
from tests.numbers import numbers


@pytest.mark.parametrize("curvature", [0.0, 0.3, 5.0])
def test_no_point_of_the_ball_is_below_the_least_of_a_quadratic(curvature: float) -> None:
    slope = torch.cat([numbers(20, 3), torch.zeros(1, 3, dtype=torch.float64)])
    best = least_of_quadratic(slope, curvature, 1.4)
    assert (best.norm(dim=1) <= 1.4 + 1e-12).all()
    others = project_points(3 * numbers(5000, 3, seed=1), 1.4)
    value = quadratic(best, slope, curvature)
    assert (quadratic(others[:, None], slope, curvature) >= value - 1e-12).all()


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
def test_a_stream_of_logistic_losses_has_the_least_that_scipy_finds(radius: float) -> None:
    rows, sign = numbers(300, 4), numbers(300, seed=1).sign()

    def objective(u: Tensor) -> tuple[Tensor, Tensor]:
        margin = sign * (rows @ u)
        return torch.nn.functional.softplus(-margin).sum(), -(sign * torch.sigmoid(-margin)) @ rows

    def own(u: np.ndarray) -> float:
        return np.logaddexp(0, -(sign.numpy() * (rows.numpy() @ u))).sum()

    ball = {"type": "ineq", "fun": lambda u: radius**2 - u @ u}
    theirs = minimize(own, np.zeros(4), method="SLSQP", constraints=[ball], options={"ftol": 1e-14, "maxiter": 500})
    best = least_on_ball(objective, torch.zeros(4, dtype=torch.float64), radius, 1e-9)
    assert best.gap <= 1e-9 * (1 + best.value)
    assert best.value.item() == pytest.approx(theirs.fun, rel=1e-7)


def test_the_gap_bounds_what_an_unfinished_search_misses() -> None:
    root = numbers(8, 8)

    def objective(u: Tensor) -> tuple[Tensor, Tensor]:
        return (root @ (u - 3)).square().sum() / 2, root.T @ (root @ (u - 3))

    start = torch.zeros(8, dtype=torch.float64)
    few, many = (least_on_ball(objective, start, 1.0, 1e-12, steps) for steps in (3, 5000))
    assert 0 < few.value - many.value <= few.gap


def test_regret_of_quadratics_is_that_of_their_definition() -> None:
    slope, x, curvature = numbers(50, 3), project_points(numbers(50, 3, seed=1), 1.0), 0.4
    expected = curvature / 2 * (x**2).sum(1) + (slope * x).sum(1)
    found = regret_of_quadratics(expected, slope, curvature, 1.0)
    grid = project_points(2 * numbers(20_000, 3, seed=2), 1.0)
    values = quadratic(grid[:, None], slope, curvature)  # [points, rounds]
    assert (expected.sum() - values.sum(1).min()).item() == pytest.approx(found.static.sum().item(), abs=0.3)
    assert found.static.sum() >= expected.sum() - values.sum(1).min() - 1e-9
    assert (expected - values.amin(0)).sum().item() == pytest.approx(found.dynamic.sum().item(), abs=1.0)
    assert (found.dynamic >= expected - values.amin(0) - 1e-9).all()
    # The change of the gradient is equal everywhere; relative to F_0 = 0, it is largest at the boundary.
    gradient = curvature * grid[:, None] + slope
    assert found.adversarial_variation.item() == pytest.approx(
        (gradient[:, 0].square().sum(1).max() + slope.diff(dim=0).square().sum()).item(), abs=0.05
    )


@pytest.mark.parametrize("curvature", [0.0, 0.4])
def test_the_mean_point_has_the_excess_risk_of_its_definition_and_at_most_the_mean_regret(curvature: float) -> None:
    slope, x = numbers(1, 3).expand(50, -1), project_points(numbers(50, 3, seed=1), 1.0)
    found = excess_risk(x.mean(0), slope, curvature, 1.0).item()
    value = curvature / 2 * (x.mean(0) ** 2).sum() + (slope[0] * x.mean(0)).sum()
    least = minimize(
        lambda u: curvature / 2 * u @ u + slope[0].numpy() @ u,
        np.zeros(3),
        constraints=[{"type": "ineq", "fun": lambda u: 1 - u @ u}],
        options={"ftol": 1e-14},
    )
    assert found == pytest.approx(value.item() - least.fun, abs=1e-6)
    regret = regret_of_quadratics(quadratic(x, slope, curvature), slope, curvature, 1.0)
    assert 0 <= found <= regret.static.mean().item() + 1e-12  # by Jensen's inequality, for a single distribution


def test_exponents_of_powers_and_of_the_logarithm() -> None:
    t = torch.arange(1, 4001, dtype=torch.float64)
    for b in (0.0, 0.5, 1.0):
        assert growth_exponent(3 * t**b).item() == pytest.approx(b, abs=1e-12)
    assert growth_exponent(5 * t.log()).item() == pytest.approx(1 / t[-1].log().item(), abs=0.04)
    assert growth_exponent(torch.cat([t[:-1], -t[-1:]])).isnan()
