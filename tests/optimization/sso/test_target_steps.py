"""Step sizes in output space: schedules, a line search, and sums of squared gradients."""

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.sso.surrogate import code_surrogate, paper_surrogate
from lightning_modules.optimization.sso.target_steps import (
    AdaGradStep,
    DiagonalAdaGradStep,
    LineSearchStep,
    LogisticNewtonStep,
    ScheduledStep,
    Target,
    scheduled_preconditioner,
)


def at_step(step: int = 1, outputs: Tensor | None = None, index: list[int] | None = None) -> Target:
    """Return a batch whose loss is the sum of squares of the outputs z, with gradient 2 z."""
    outputs = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) if outputs is None else outputs
    place = torch.tensor(index or list(range(len(outputs))))
    return Target(outputs, 2 * outputs, lambda z: (z**2).sum(), place, len(outputs), 5, step, 9)


def test_schedules_are_those_of_the_code() -> None:
    one = torch.tensor(3.0, dtype=torch.float64)
    for step in range(1, 10):
        assert scheduled_preconditioner(one, "constant", step, 9) == 3
        assert scheduled_preconditioner(one, "stochastic", step, 9).item() == pytest.approx(3 * step**0.5)
        assert scheduled_preconditioner(one, "exponential", step, 9).item() == pytest.approx(3 * (1 / 9) ** (-step / 9))
    assert scheduled_preconditioner(one, "exponential", 9, 9) == 27
    assert ScheduledStep(4.0, "exponential")(at_step(9)) == 9 / 4


def test_a_searched_step_decreases_enough_and_finds_the_curvature() -> None:
    rule, target = LineSearchStep(rate=20.0), at_step()
    for _ in range(30):
        h = rule(target)
        decrease = target.value(target.at) - target.value(target.at - target.gradient / h)
        assert decrease >= 0.5 / h * target.gradient.square().sum()
        assert h >= 2  # |1 - 2/h|^2 <= 1 - 2/h, by algebra
    assert h <= 2 / 0.9
    bounded = LineSearchStep(rate=1e9)
    target = target._replace(value=lambda z: z.sum() * 0)
    bounded(target._replace(gradient=0 * target.gradient))
    assert bounded.inverse == 1e-4


def test_sums_of_squares_grow_over_batches() -> None:
    rule = AdaGradStep(rate=4.0)
    first = rule(at_step())
    assert first.item() == pytest.approx((4 * 5.25) ** 0.5 / 4 + 1e-6)
    assert rule(at_step(2)).item() == pytest.approx((8 * 5.25) ** 0.5 / 4 + 1e-6)


@pytest.mark.parametrize(("rate", "scaling"), [(1.0, "paper"), (2.0, "code")])
def test_the_surrogate_of_the_newton_step_has_its_minimum_at_a_step_of_newton(rate: float, scaling: str) -> None:
    z = torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.0], [1.0], [-1.0]], dtype=torch.float64)
    losses = torch.nn.functional.softplus(-y * z)
    [gradient] = torch.autograd.grad(losses.sum(), z, create_graph=True)
    [second] = torch.autograd.grad(gradient.sum(), z)
    at, gradient = z.detach(), gradient.detach()
    inverse = LogisticNewtonStep(rate)(at_step(outputs=at))
    newton = (at - gradient / (second + 1e-5)).requires_grad_()
    if scaling == "paper":
        value = paper_surrogate(newton, at, gradient, inverse, losses.sum().detach())
    else:
        value = code_surrogate(newton, at, gradient, inverse, 3)
    assert torch.autograd.grad(value, newton)[0].abs().max() < 1e-12


def test_samples_have_their_own_sums_which_survive_a_checkpoint() -> None:
    rule, z = DiagonalAdaGradStep(rate=2.0), torch.tensor([[3.0, 1e-9], [-1e4, 1.0]], dtype=torch.float64)
    assert torch.equal(
        rule(at_step(1, z, [1, 4])), torch.tensor([[36, 1e-5], [1e5, 4]], dtype=torch.float64).sqrt() / 2
    )
    resumed = DiagonalAdaGradStep(rate=2.0)
    resumed.restore(rule.checkpoint_state().clone())  # a file contains a copy
    for each in (rule, resumed):
        expected = torch.tensor([[36 + 36, 1e-5], [1e-5 + 1, 1e-5]], dtype=torch.float64)
        new = torch.tensor([[3.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
        torch.testing.assert_close(each(at_step(2, new, [1, 0])), expected.sqrt() / 2)
