"""Noise: the distribution of its start, the precision of its weights, a learned H, and rejections."""

import pytest
import torch

from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, FractionalNoise
from lightning_modules.probabilistic.fractional_sde.optimal_weights import optimal_weights


@pytest.mark.parametrize("num_processes", [5, 12])
def test_a_stationary_start(num_processes: int) -> None:
    noise = FractionalNoise(0.3, num_processes=num_processes)
    gamma, factor = noise.gamma, noise.start_factor
    torch.testing.assert_close(factor @ factor.T, 1 / (gamma + gamma[:, None]), rtol=0, atol=1e-13)
    torch.manual_seed(0)
    start = noise.start(torch.zeros(5000, 4, dtype=torch.float64))
    assert start.shape == (5000, 4, num_processes)
    found = start.flatten(0, 1).T.cov()
    expected = 1 / (gamma + gamma[:, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.max()))
    rows = start.flatten(1).T.corrcoef()[:num_processes, num_processes:]
    assert rows.abs().max() < 0.08  # dimensions are independent


def test_a_start_without_a_past() -> None:
    for noise in (FractionalNoise(0.3, kind="II"), BrownianNoise()):
        assert not noise.start(torch.zeros(3, 2)).any()


def test_h_is_learned_from_one_half_on() -> None:
    noise = FractionalNoise(horizon=2.0)
    assert noise.hurst() == 0.5
    omega = noise.omega()
    assert omega.dtype == torch.float64
    omega[4].backward()
    assert noise.hurst_raw is not None
    assert noise.hurst_raw.grad is not None
    step = torch.tensor(1e-4, dtype=torch.float64)
    above, below = (optimal_weights(noise.gamma, (sign * step).sigmoid(), 2.0, "I")[4] for sign in (1, -1))
    assert float(noise.hurst_raw.grad) == pytest.approx(float((above - below) / (2 * step)), rel=1e-5)


@pytest.mark.parametrize("hurst", [0.7, None])
def test_weights_have_double_precision_whatever_the_trainers(hurst: float | None) -> None:
    noise, fine = FractionalNoise(hurst), FractionalNoise(hurst).double()
    with torch.autocast("cpu", torch.bfloat16):
        omega = noise.omega()
    torch.testing.assert_close(omega, fine.omega(), rtol=0, atol=0)


def test_the_start_has_the_trainers_precision_under_autocast() -> None:
    noise, x = FractionalNoise(0.7, kind="I"), torch.zeros(3, 2)
    starts = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            starts.append(noise.start(x))
    torch.testing.assert_close(*starts, rtol=0, atol=0)
