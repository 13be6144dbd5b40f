import math

import pytest
import torch
from torch import Tensor

from lightning_modules.restoration.sgmse.ouve import OUVE
from lightning_modules.sde.samplers import predict_and_correct, reverse_diffusion

Y, MEAN, STD = 1.0 + 0.5j, -0.3 + 0.8j, 0.4
"""The observation, and mean and standard deviation of clean complex Gaussian signals."""


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_deviations_are_the_papers() -> None:
    assert float(OUVE().deviation(times(1.0))) == pytest.approx(0.38898, abs=5e-6)
    assert float(OUVE().deviation(times(0.03))) == pytest.approx(0.018830, abs=5e-7)
    assert OUVE().prior_deviation == pytest.approx(0.38898, abs=5e-6)


def test_variance_and_mean_solve_their_equations() -> None:
    process, t, h = OUVE(), torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 1e-5
    slope = (process.deviation(t + h) ** 2 - process.deviation(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(slope, -3 * process.deviation(t) ** 2 + process.diffusion(t) ** 2, rtol=1e-5, atol=1e-9)
    assert float(process.deviation(times(0.0))) == 0
    observed = torch.full((50, 1), Y, dtype=torch.complex128)
    clean, given = torch.randn(50, 1, dtype=torch.complex128), process.towards(observed)
    after, before = (given.kernel(clean, t + step)[0] for step in (h, -h))
    here = given.kernel(clean, t)[0]
    torch.testing.assert_close((after - before) / (2 * h), given.drift(here, t), rtol=1e-6, atol=1e-8)


def test_the_clean_signal_comes_back_from_its_own_score() -> None:
    process = OUVE().towards(torch.randn(3, 4, dtype=torch.complex128))
    clean, noise = torch.randn(2, 3, 4, dtype=torch.complex128)
    mean, deviation = process.kernel(clean, t := times(0.1, 0.5, 1.0))
    x = mean + deviation[:, None] * noise
    torch.testing.assert_close(process.clean_estimate(x, t, -(x - mean) / deviation[:, None] ** 2), clean)


def test_the_reverse_process_gives_the_law_of_gaussian_signals() -> None:
    """The reverse process takes 500 steps with the exact score of x_t, from the mean and variance of x_0."""
    process = OUVE().towards(torch.full((4000, 1), Y, dtype=torch.complex128))

    def score(x: Tensor, t: Tensor) -> Tensor:
        left = torch.exp(-1.5 * t)[:, None]
        variance = left**2 * STD**2 + process.deviation(t)[:, None] ** 2
        return -(x - left * MEAN - (1 - left) * Y) / variance

    torch.manual_seed(0)
    start = process.observed + process.prior_deviation * torch.randn(4000, 1, dtype=torch.complex128)
    grid = torch.linspace(1, 0.001, 500, dtype=torch.float64).tolist()
    sizes = [before - after for before, after in zip(grid, [*grid[1:], 0.0], strict=True)]
    x = predict_and_correct(score, start, grid, process, reverse_diffusion, n=[1 / size for size in sizes])
    bias = STD**2 / (STD**2 * math.exp(-3) + process.prior_deviation**2) * math.exp(-3) * abs(Y - MEAN)
    assert abs(complex(x.mean()) - MEAN) < 0.05 + bias  # the observation is used as the prior's mean
    assert float((x - x.mean()).abs().square().mean()) == pytest.approx(STD**2, rel=0.1)
