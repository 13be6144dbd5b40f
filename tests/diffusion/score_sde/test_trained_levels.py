"""Losses and scores of continuous and discrete models compared with closed forms."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from lightning_modules.diffusion.score_sde.trained_levels import TrainedLevels, score_matching
from lightning_modules.sde.discrete import scheduler_levels
from lightning_modules.sde.processes import VE, VP, SubVP
from tests.sde.exact import gaussian_score, shrinkage, variance


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Told:
    """Records its noise level."""

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        self.level = level
        return torch.ones_like(x)


@pytest.mark.parametrize(
    ("levels", "told", "sign"),
    [
        (TrainedLevels(VE(0.01, 50.0)), [0.01 * 5000**0.25, 50.0], 0),
        (TrainedLevels(VP()), [249.75, 999.0], -1),
        (TrainedLevels(SubVP()), [249.75, 999.0], -1),
        (TrainedLevels(VE(0.01, 50.0), 1001), [750.0, 0.0], 1),
        (TrainedLevels(VP(), 1001), [250.0, 1000.0], -1),
    ],
    ids=["VE", "VP", "sub-VP", "SMLD", "DDPM"],
)
def test_networks_are_told_their_own_kind_of_level(levels: TrainedLevels, told: list[float], sign: int) -> None:
    network, t = Told(), torch.tensor([0.25, 1.0], dtype=torch.float64)
    found = levels.score(network, torch.zeros(2, 1, 2, 2, dtype=torch.float64), t)
    torch.testing.assert_close(network.level, torch.tensor(told, dtype=torch.float64))
    deviation = levels.kernel(torch.zeros_like(found), t)[1]
    expected = sign / deviation if sign else torch.ones_like(deviation)
    torch.testing.assert_close(found[:, 0, 0, 0], expected)


def test_the_discrete_model_of_vp_is_ddpm() -> None:
    levels = TrainedLevels(VP(), 1000)
    abar = scheduler_levels(DDPMScheduler(beta_start=1e-4, beta_end=0.02))
    torch.testing.assert_close(levels.abar.double(), torch.from_numpy(abar), rtol=1e-4, atol=0)
    t = levels.times(torch.tensor([0.0, 0.4005, 0.9999], dtype=torch.float64))
    torch.testing.assert_close(t * 999, torch.tensor([0, 400, 999], dtype=torch.float64))
    mean, deviation = levels.kernel(torch.ones(3, 1, dtype=torch.float64), t)
    np.testing.assert_allclose(mean[:, 0] ** 2, abar[[0, 400, 999]], rtol=1e-4)
    np.testing.assert_allclose(deviation**2, 1 - abar[[0, 400, 999]], rtol=1e-3)
    sigma = torch.tensor([0.5], dtype=torch.float64)
    level = int((levels.time_of(sigma) * 999).round())
    assert math.sqrt((1 - abar[level]) / abar[level]) >= 0.5 > math.sqrt((1 - abar[level - 1]) / abar[level - 1])


def test_continuous_times_begin_a_little_above_zero() -> None:
    t = TrainedLevels(VE()).times(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(t, torch.tensor([1e-5, 0.500005, 1.0]))


@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("reduce_mean", [False, True])
def test_the_loss_is_that_of_the_equation_with_its_gradient(reduce_mean: bool, likelihood: bool) -> None:
    process, t = SubVP(), torch.tensor([0.1, 0.8], dtype=torch.float64)
    score, noise = randn(2, 3, 2, 2).requires_grad_(), randn(2, 3, 2, 2, seed=1)
    deviation, rate = process.deviation(t), process.diffusion(t) ** 2
    loss = score_matching(score, noise, deviation, rate if likelihood else None, reduce_mean)
    for i in range(2):
        weight = rate[i] if likelihood else deviation[i] ** 2
        errors = (score[i] + noise[i] / deviation[i]).square()
        expected = weight * (errors.mean() if reduce_mean else 0.5 * errors.sum())
        torch.testing.assert_close(loss[i], expected)
    [gradient] = torch.autograd.grad(loss.sum(), score)
    weight = (rate if likelihood else deviation**2).view(-1, 1, 1, 1) * (2 / 12 if reduce_mean else 1)
    torch.testing.assert_close(gradient, weight * (score + noise / deviation.view(-1, 1, 1, 1)).detach())


def test_the_least_loss_of_gaussian_data_is_the_analytic_one() -> None:
    """With the exact score, the mean loss over t is the mean of m^2 s^2 / (m^2 s^2 + std^2)."""
    process, deviation, n = VP(), 0.4, 200_000
    levels = TrainedLevels(process)
    t = levels.times((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    data, noise = deviation * randn(n, 1, 1, 2), randn(n, 1, 1, 2, seed=1)
    mean, std = levels.kernel(data, t)
    score = gaussian_score(process, 0.0, deviation)(mean + std.view(-1, 1, 1, 1) * noise, t)
    loss = score_matching(score, noise, std, reduce_mean=True).mean()
    expected = (shrinkage(process, t) ** 2 * deviation**2 / variance(process, t, deviation)).mean()
    assert float(loss) == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize("levels", [TrainedLevels(VP(), 1000), TrainedLevels(VP()), TrainedLevels(VE())])
def test_clean_estimates_of_a_perfect_score_are_the_data(levels: TrainedLevels) -> None:
    data, noise, t = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1), torch.tensor([0.2, 0.7], dtype=torch.float64)
    mean, deviation = levels.kernel(data, t)
    std = deviation.view(-1, 1, 1, 1)
    found = levels.clean_estimate(mean + std * noise, t, -noise / std)
    torch.testing.assert_close(found, data, rtol=1e-4, atol=1e-4)
