"""Exact covariances agree with sums of exponentials, fractional Brownian motion, and Brownian limits."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.sequences.fractional_motion import pulled_covariance
from lightning_modules.probabilistic.fractional_sde.exact import least_loss, path_covariance
from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, FractionalNoise

TIME = torch.arange(101, dtype=torch.float64) * 0.02


def closed_form(noise: FractionalNoise, s: Tensor, t: Tensor) -> Tensor:
    """Return the covariance E Bhat(s) Bhat(t) of the approximated motion for s <= t."""
    i, j, weight = noise.gamma[:, None], noise.gamma, noise.omega()
    s, t = s[..., None, None], t[..., None, None]
    if noise.kind == "I":
        terms = (-i * (t - s)).exp() - (-i * t).exp() - (-j * s).exp() + 1
    else:
        terms = (-i * (t - s)).exp() - (-i * t - j * s).exp()
    return (weight[:, None] * weight * terms / (i + j)).sum(dim=(-2, -1))


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.7, 0.9])
def test_noise_alone_has_the_covariance_in_closed_form(hurst: float, kind: Any) -> None:
    noise = FractionalNoise(hurst, kind, horizon=2.0)
    expected = closed_form(noise, torch.minimum(TIME[:, None], TIME), torch.maximum(TIME[:, None], TIME))
    torch.testing.assert_close(path_covariance(noise, 0.0, 0.02, 101), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "hurst", "approximated", "exact"),
    [("II", 0.3, 1.226, 1.230), ("II", 0.7, 0.8467, 0.8473), ("I", 0.3, 1.364, 1.383), ("I", 0.7, 0.865, 0.995)],
)
def test_variances_at_one_beside_those_of_the_motion(
    kind: Any, hurst: float, approximated: float, exact: float
) -> None:
    found = path_covariance(FractionalNoise(hurst, kind, horizon=2.0), 0.0, 0.02, 101)[50, 50]
    assert float(found) == pytest.approx(approximated, abs=6e-4)
    assert float(pulled_covariance(0.02, 101, hurst, kind, 0.0)[50, 50]) == pytest.approx(exact, abs=6e-4)


def test_half_of_type_two_is_brownian_motion() -> None:
    variance = path_covariance(FractionalNoise(0.5, "II", horizon=2.0), 0.0, 0.02, 101).diagonal()
    torch.testing.assert_close(variance, TIME, rtol=0, atol=1e-3)


def test_a_pull_on_white_noise_is_the_ornstein_uhlenbeck_process() -> None:
    s, t = torch.minimum(TIME[:, None], TIME), torch.maximum(TIME[:, None], TIME)
    expected = ((-1.5 * (t - s)).exp() - (-1.5 * (t + s)).exp()) / 3
    torch.testing.assert_close(path_covariance(BrownianNoise(), 1.5, 0.02, 101), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("hurst", [0.6, 0.9])
def test_a_pull_on_fractional_noise_is_that_on_the_motion(hurst: float) -> None:
    found = path_covariance(FractionalNoise(hurst, "II", horizon=2.0), 2.0, 0.02, 101)
    torch.testing.assert_close(found, pulled_covariance(0.02, 101, hurst, "II", 2.0), rtol=0, atol=2e-3)


def test_the_least_loss_is_minus_the_log_of_the_evidence() -> None:
    sigma = torch.full((101,), math.inf, dtype=torch.float64)
    sigma[-1] = 0.5
    covariance = path_covariance(FractionalNoise(0.7, "II", horizon=2.0), 0.0, 0.02, 101)
    zeros = torch.zeros(101, dtype=torch.float64)
    expected = 0.5 * math.log(1 + float(covariance[-1, -1]) / 0.25)
    assert float(least_loss(covariance, zeros, sigma)) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1.148, abs=1e-3)
    sigma[30], seen = 0.8, zeros.index_fill(0, torch.tensor([30, 100]), 0.4)
    generator = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(covariance[1:, 1:])
    draws = factor[[29, 99]] @ torch.randn(100, 200_000, generator=generator, dtype=torch.float64)
    misfit = ((draws - 0.4) / torch.tensor([[0.8], [0.5]])).square().sum(dim=0) / 2
    assert float(least_loss(covariance, seen, sigma)) == pytest.approx(
        -math.log(float((-misfit).exp().mean())), abs=0.01
    )
