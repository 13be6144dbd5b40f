import math

import pytest
import torch
from torch import Tensor

from lightning_modules.probabilistic.tester_learner.surrogates import (
    SURROGATES,
    Surrogate,
    sampling_error,
    summed_gradients,
    surrogate_loss,
)

BOTH = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@BOTH
@pytest.mark.parametrize("sigma", [0.4, 3.0])
def test_a_step_and_its_slope(surrogate: Surrogate, sigma: float) -> None:
    # With an even number of points, none equals 0, where the derivative of |t| is set to 0, on any processor.
    t = torch.linspace(-40 * sigma, 40 * sigma, 800_000, dtype=torch.float64).requires_grad_()
    value, slope = surrogate.value(t, sigma), surrogate.slope(t, sigma)
    (differentiated,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(slope, differentiated, rtol=0, atol=1e-11)
    torch.testing.assert_close(value + value.flip(0), torch.ones_like(value))
    assert torch.trapezoid(slope, t).item() == pytest.approx(1, abs=1e-8)
    assert torch.trapezoid(slope**2, t).item() == pytest.approx(surrogate.energy / sigma, rel=1e-7)
    assert torch.all(slope >= 0)


def test_the_ramp_is_straight_in_the_middle_and_flat_outside() -> None:
    ramp = SURROGATES["ramp"]
    assert round(ramp.energy, 3) == 1.152
    t = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    slope, size = ramp.slope(t, 0.6), t.abs()
    torch.testing.assert_close(slope[size <= 0.1], torch.full_like(slope[size <= 0.1], 1 / 0.6))
    assert not slope[size > 0.3].any()
    assert slope.max().item() * 0.6 == pytest.approx(1.512, abs=1e-3)


@BOTH
def test_gradients_are_those_of_the_mean_loss_and_stay_on_the_sphere(surrogate: Surrogate) -> None:
    features, target = numbers(200, 5), numbers(200, seed=1).sign()
    weights = torch.nn.functional.normalize(numbers(3, 5, seed=2))
    summed = summed_gradients(features, target, weights, surrogate, 0.7)
    for weight, gradient in zip(weights, summed / 200, strict=True):
        moving = weight.clone().requires_grad_()
        loss = surrogate_loss(features, target, moving, surrogate, 0.7)
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, moving)[0], rtol=0, atol=1e-12)
        assert abs(gradient @ weight) < 1e-12
        torch.testing.assert_close(surrogate_loss(features, target, 3 * weight, surrogate, 0.7), loss.detach())


@pytest.mark.parametrize(
    ("angle", "expected"), [(0.0, 0.0), (0.05, 0.0198), (0.3, 0.09788), (1, 0.16214), (2, 0.16534)]
)
def test_the_gradient_of_normal_points_is_the_closed_form(angle: float, expected: float) -> None:
    """On a grid of quantiles, with labels flipped at rate eta: (1 - 2 eta) int 2 phi(u / tan th) l'(u) phi(u) du."""
    grid = torch.special.ndtri((torch.arange(1200, dtype=torch.float64) + 0.5) / 1200)
    points = torch.cartesian_prod(grid, grid)
    weight, true = (torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in (0.0, angle))
    clean = torch.where(points @ true >= 0, 1.0, -1.0).double()
    logistic = SURROGATES["logistic"]
    mean = summed_gradients(points, clean, weight[None], logistic, 0.3)[0] / len(points)
    norm = (1 - 2 * 0.2) * mean.norm().item()
    assert norm == pytest.approx(expected, abs=5e-5)
    if angle:
        u = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
        phi = torch.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
        across = torch.exp(-((u / math.tan(angle)) ** 2) / 2) / math.sqrt(2 * math.pi)
        closed = 0.6 * torch.trapezoid(2 * across * logistic.slope(u, 0.3) * phi, u).item()
        assert closed == pytest.approx(expected, abs=6e-6)


@BOTH
def test_the_sampling_error_is_that_of_labels_without_meaning(surrogate: Surrogate) -> None:
    weight = torch.eye(6, dtype=torch.float64)[:1]
    norms = [
        summed_gradients(numbers(2000, 6, seed=seed), numbers(2000, seed=seed + 99).sign(), weight, surrogate, 0.4)
        for seed in range(60)
    ]
    root_mean_square = (torch.stack(norms) / 2000).norm(dim=2).square().mean().sqrt().item()
    assert root_mean_square == pytest.approx(sampling_error(2000, 6, surrogate, 0.4), rel=0.12)
    assert sampling_error(25_000, 10, SURROGATES["ramp"], 0.4) == pytest.approx(
        math.sqrt(0.46 * 9 / (0.4 * 25_000)), 0.01
    )
