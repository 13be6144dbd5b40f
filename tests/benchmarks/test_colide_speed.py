"""CoLiDE's path of stages compared with plain NumPy that follows the steps of the authors' code."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from lightning_modules.probabilistic.colide.path import RegularizationPath, Schedule
from lightning_modules.probabilistic.colide.score import covariance
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
ITERATIONS, RATE, PENALTY = 1000, 3e-4, 0.05


def data(nodes: int) -> np.ndarray:
    random = np.random.default_rng(0)
    strength = random.uniform(0.5, 2, (nodes, nodes)) * (random.random((nodes, nodes)) < 4 / nodes)
    return random.standard_normal((1000, nodes)) @ np.linalg.inv(np.eye(nodes) - np.triu(strength, k=1))


def ours(cov: np.ndarray) -> np.ndarray:
    schedule = Schedule((1.0,), 1.0, 0.1, ITERATIONS, ITERATIONS, RATE, ITERATIONS)
    path = RegularizationPath(len(cov), "ev", PENALTY, schedule)
    path.observe(cov)
    for _ in range(ITERATIONS - 1):
        path.iterate()
    return path.weight


def theirs(cov: np.ndarray) -> np.ndarray:
    """Run one stage with mu = s = 1; each matrix is recomputed wherever it is used."""
    size = len(cov)
    weight, first, second = np.zeros_like(cov), np.zeros_like(cov), np.zeros_like(cov)
    sigma = np.sqrt(np.min(np.diag(cov)))
    for step in range(1, ITERATIONS):
        inverse = np.linalg.inv(np.eye(size) - weight * weight) + 1e-16
        if np.any(inverse < -1e-6):
            raise AssertionError("the stage leaves its domain, which the other does not do here")
        slope = -cov @ (np.eye(size) - weight) / sigma + PENALTY * np.sign(weight) + 2 * weight * inverse.T
        first = 0.99 * first + 0.01 * slope
        second = 0.999 * second + 0.001 * slope**2
        weight = weight - RATE * (first / (1 - 0.99**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        rest = np.eye(size) - weight
        sigma = np.sqrt(np.trace(rest.T @ cov @ rest) / size)
    return weight


@pytest.mark.parametrize("nodes", [20, 100])
def test_beside_plain_numpy(nodes: int, report: Callable[[str, float, str], None]) -> None:
    cov = covariance(data(nodes))
    np.testing.assert_allclose(ours(cov), theirs(cov), rtol=0, atol=1e-8)
    ratio = paired_ratio(lambda: ours(cov), lambda: theirs(cov), 5, time.process_time)
    name = f"the authors' steps in plain NumPy {np.__version__}"
    report(f"CPU time of {ITERATIONS:,} iterations of CoLiDE-EV, {nodes} nodes, over {name}", ratio, "<= 1")
    assert ratio <= 1
