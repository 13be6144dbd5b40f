"""Armijo's search returns the first step size with a sufficient decrease; if there is none, nothing moves."""

import pytest
import torch

from lightning_modules.optimization.sso.line_search import search


def quadratic(curvature: float, start: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([start], dtype=torch.float64), torch.tensor([curvature * start], dtype=torch.float64)


@pytest.mark.parametrize("c", [0.1, 0.5])
def test_the_first_accepted_step_of_a_quadratic_is_known(c: float) -> None:
    theta, gradient = quadratic(2.0, 3.0)
    found = search([theta], [gradient], theta[0] ** 2, lambda: theta[0] ** 2, 10.0, c)
    step, tries = 10.0, 1
    while (1 - 2 * step) ** 2 * 9 > 9 - c * step * 36:
        step, tries = step * 0.9, tries + 1
    assert found == (pytest.approx(step), tries, True)
    assert theta.item() == pytest.approx(3 - step * 6)


def test_without_an_accepted_step_nothing_moves() -> None:
    theta, gradient = quadratic(2.0, 3.0)
    uphill = search([theta], [-gradient], theta[0] ** 2, lambda: theta[0] ** 2, 10.0, 0.1)
    assert theta == 3
    assert not uphill.accepted
    assert uphill.tries == 100
    assert uphill.step == pytest.approx(10 * 0.9**99)
    short = search([theta], [-gradient], theta[0] ** 2, lambda: theta[0] ** 2, 1.5e-6, 0.1)
    assert theta == 3
    assert short.tries == 4  # the fifth would be below 1e-6
    undefined = search([theta], [gradient], theta[0] * torch.nan, lambda: theta[0] ** 2, 10.0, 0.1)
    assert theta == 3
    assert not undefined.accepted


def test_a_gradient_of_nought_ends_the_search() -> None:
    theta, gradient = quadratic(2.0, 4e-7)
    assert search([theta], [gradient], theta[0] ** 2, lambda: theta[0] ** 2, 10.0, 0.1) == (10.0, 0, False)
    assert theta == 4e-7
