"""Covariances of fractional motion compared with integrals over white noise, and paths with their covariance."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad

from datamodules.sequences.fractional_motion import drawn_paths, motion_covariance, posterior_std, pulled_covariance


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_both_types_are_integrals_over_white_noise(hurst: float) -> None:
    power, s, t = hurst - 0.5, 0.7, 1.9
    unit = 1 / math.gamma(hurst + 0.5) ** 2
    since, _ = quad(lambda v: (t - v) ** power, 0, s, weight="alg", wvar=(0, power))
    time, kinds = torch.tensor([s, t], dtype=torch.float64), ("I", "II")
    found = {kind: motion_covariance(time, hurst, kind)[0, 1] for kind in kinds}  # type: ignore[arg-type]
    assert float(found["II"]) == pytest.approx(unit * since, rel=1e-8)

    def before(v: float) -> float:
        return ((s + v) ** power - v**power) * ((t + v) ** power - v**power)

    past = sum(quad(before, *ends, limit=500)[0] for ends in ((0, 1e-3), (1e-3, 1), (1, 100), (100, math.inf)))
    assert float(found["I"]) == pytest.approx(unit * (since + past), rel=1e-3)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_half_is_brownian_motion_and_a_pull_makes_it_ornstein_and_uhlenbecks(kind: Any) -> None:
    time = torch.arange(6, dtype=torch.float64) / 2
    s, t = torch.minimum(time[:, None], time), torch.maximum(time[:, None], time)
    torch.testing.assert_close(pulled_covariance(0.5, 6, 0.5, kind, 0.0), s)
    expected = ((-1.5 * (t - s)).exp() - (-1.5 * (t + s)).exp()) / 3
    torch.testing.assert_close(pulled_covariance(0.5, 6, 0.5, kind, 1.5), expected, rtol=0, atol=1e-5)


def test_paths_begin_at_zero_and_have_their_covariance() -> None:
    covariance = pulled_covariance(0.1, 5, 0.3, "I", 0.2)
    normal = torch.randn(20_000, 4, 2, generator=torch.Generator().manual_seed(0))
    paths = drawn_paths(covariance, normal)
    assert not paths[:, 0].any()
    for d in range(2):
        torch.testing.assert_close(paths[:, :, d].T.cov(), covariance, rtol=0, atol=0.02)


def test_a_brownian_bridge_between_two_observations() -> None:
    time = torch.arange(1, 10, dtype=torch.float64)
    sigma = torch.full((9,), math.inf, dtype=torch.float64).index_fill(0, torch.tensor([1, 7]), 1e-6)
    found = posterior_std(motion_covariance(time, 0.5, "II"), sigma)
    expected = [0.5, 0, *((k - 2) * (8 - k) / 6 for k in range(3, 8)), 0, 1]
    torch.testing.assert_close(found.square(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
