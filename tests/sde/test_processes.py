import math

import pytest
import torch
from torch import Tensor

from lightning_modules.sde.discrete import scheduler_levels
from lightning_modules.sde.processes import VE, VP, Process, SubVP
from tests.sde.exact import PROCESSES, gaussian_score, shrinkage, variance

TIMES = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_marginals_of_gaussian_data_obey_fokker_planck(process: Process) -> None:
    """Check d mean / dt = E f and d var / dt = 2 cov(f, x) + g^2 with finite differences."""
    mean, deviation, h = 0.7, 0.4, 1e-6

    def slope(values: Tensor, before: Tensor) -> Tensor:
        return (values - before) / (2 * h)

    later, earlier = TIMES + h, TIMES - h
    rate = process.drift(torch.ones_like(TIMES), TIMES)  # f is linear in x: f(x) = rate x
    measured = slope(shrinkage(process, later) * mean, shrinkage(process, earlier) * mean)
    torch.testing.assert_close(measured, rate * shrinkage(process, TIMES) * mean, rtol=1e-5, atol=1e-7)
    measured = slope(variance(process, later, deviation), variance(process, earlier, deviation))
    expected = 2 * rate * variance(process, TIMES, deviation) + process.diffusion(TIMES) ** 2
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=1e-7)


def test_variances_are_those_of_the_table() -> None:
    m, vp = shrinkage(VP(), TIMES), VP().deviation(TIMES)
    torch.testing.assert_close(m**2 + vp**2, torch.ones_like(m), rtol=0, atol=1e-12)
    torch.testing.assert_close(SubVP().deviation(TIMES), 1 - m**2, rtol=0, atol=1e-12)
    assert (SubVP().deviation(TIMES) <= vp).all()
    torch.testing.assert_close(m, (-0.25 * TIMES**2 * 19.9 - 0.05 * TIMES).exp())
    ends = VE(0.01, 50.0).sigma(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.01, 50.0], dtype=torch.float64))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_time_of_a_level_has_that_much_noise(process: Process) -> None:
    sigma = torch.tensor([0.02, 0.3, 2.0], dtype=torch.float64)
    t = process.time_of(sigma)  # type: ignore[attr-defined]
    torch.testing.assert_close(process.kernel(torch.zeros_like(t), t)[1] / shrinkage(process, t), sigma)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_tweedies_formula_gives_the_posterior_mean(process: Process) -> None:
    mean, deviation = 0.7, 0.4
    x = torch.linspace(-1, 2, 9, dtype=torch.float64)
    score = gaussian_score(process, mean, deviation)(x, TIMES)
    m, v = shrinkage(process, TIMES), variance(process, TIMES, deviation)
    expected = mean + m * deviation**2 / v * (x - m * mean)
    torch.testing.assert_close(process.clean_estimate(x, TIMES, score), expected, rtol=1e-9, atol=1e-9)


def test_steps_of_a_grid_are_those_of_the_discrete_models() -> None:
    """Over all n steps of VP, the retained part of x is DDPM's sqrt(abar); the added variances of VE sum to smax^2."""
    from diffusers import DDPMScheduler

    n = 1000
    grid = torch.linspace(1, 1e-5, n, dtype=torch.float64)
    f, g = VP().step(torch.ones_like(grid), grid, n)
    abar = scheduler_levels(DDPMScheduler(num_train_timesteps=n, beta_start=1e-4, beta_end=0.02))
    torch.testing.assert_close(
        (1 + f).log().sum() * 2, torch.tensor(math.log(abar[-1]), dtype=torch.float64), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(g[0], torch.tensor(0.02, dtype=torch.float64).sqrt())
    torch.testing.assert_close(g[-1], torch.tensor(1e-4, dtype=torch.float64).sqrt())
    torch.testing.assert_close(VP().langevin_scale(grid, n), 1 - g**2)
    f, g = VE(0.01, 50.0).step(torch.ones_like(grid), grid, n)
    assert not f.any()
    torch.testing.assert_close(g.square().sum().sqrt(), torch.tensor(50.0, dtype=torch.float64))
    torch.testing.assert_close(g[-1], torch.tensor(0.01, dtype=torch.float64))


def test_ancestral_steps_are_those_of_the_discrete_models() -> None:
    """VE: x + (s_i^2 - s_{i-1}^2) score with the posterior's variance; VP: (x + b_i score) / sqrt(1 - b_i) with b_i."""
    n, i = 10, torch.arange(9.0, -1, -1, dtype=torch.float64)
    x, score = torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here = 0.01 * 5000 ** (i / 9)
    below = torch.where(i > 0, 0.01 * 5000 ** ((i - 1) / 9), 0)
    mean, deviation = VE(0.01, 50.0).ancestral(x, i / 9, n, score)
    torch.testing.assert_close(mean, x + (here**2 - below**2) * score)
    torch.testing.assert_close(deviation, (below**2 * (here**2 - below**2) / here**2).sqrt())
    b = (0.1 + i / 9 * 19.9) / n
    mean, deviation = VP().ancestral(x, i / 9, 10 * n, score)
    b = b / 10
    torch.testing.assert_close(mean, (x + b * score) / (1 - b).sqrt())
    torch.testing.assert_close(deviation, b.sqrt())


def test_prior_density_is_that_of_a_gaussian() -> None:
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 50.0)
    torch.testing.assert_close(VE().prior_log_density(x), normal.log_prob(x).flatten(1).sum(dim=1))


def test_the_rate_of_noise_may_be_constant() -> None:
    process, t = VP(2.0, 2.0), torch.linspace(0.1, 1, 5, dtype=torch.float64)
    mean, deviation = process.kernel(torch.ones(5, 1).double(), t)
    torch.testing.assert_close(mean[:, 0], (-t).exp())
    torch.testing.assert_close(process.time_of(deviation / mean[:, 0]), t)
