"""Kernels of infinitely wide networks compared with the same formulas in NumPy."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lightning_modules.probabilistic.kernels import relu_moments
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
DEPTH = 3


def ours(points: torch.Tensor) -> torch.Tensor:
    covariance = points @ points.T / points.shape[1]
    variance = covariance.diagonal().clone()
    for _ in range(DEPTH):
        covariance, _derivative = relu_moments(variance[:, None], variance, covariance)
        covariance, variance = 2 * covariance, 2 * (variance / 2)
    return covariance


def theirs(points: np.ndarray) -> np.ndarray:
    covariance = points @ points.T / points.shape[1]
    variance = covariance.diagonal().copy()
    for _ in range(DEPTH):
        product = np.sqrt(variance[:, None] * variance)
        cosine = np.clip(covariance / product, -1, 1)
        angle = np.arccos(cosine)
        _derivative = (np.pi - angle) / (2 * np.pi)
        covariance = 2 * product * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi)
    return covariance


@pytest.mark.parametrize("points", [500, 1500])
def test_beside_numpy(points: int, report: Callable[[str, float, str], None]) -> None:
    x = torch.randn(points, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), torch.from_numpy(theirs(x.numpy())), rtol=1e-6, atol=1e-6)
    ratio = paired_ratio(lambda: ours(x), lambda: theirs(x.numpy()), 7, time.process_time)
    name = f"NumPy {np.__version__}"
    report(f"CPU time of NNGP kernel and derivative, {DEPTH} layers, {points} points, over {name}", ratio, "<= 1")
    assert ratio <= 1
