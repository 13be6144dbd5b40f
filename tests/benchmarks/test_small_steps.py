"""Iterations of microseconds in `fit`, each compared with a plain loop of the same iterations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules.corruptions.value_noise import GrossOutliers
from datamodules.graphs.linear_sem import LinearSEM
from datamodules.loading import Loading
from datamodules.tables.low_rank_measurements import LowRankMeasurements
from datamodules.tables.tables import Tables
from lightning_modules.optimization.subgm import SubGM
from lightning_modules.probabilistic.colide import CoLiDE
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def some_trainers() -> list[Trainer]:
    """Create a trainer for each round of a comparison."""
    return [quiet(max_epochs=1, precision="64-true") for _ in range(8)]


def descent(features: Tensor, target: Tensor, factor: Tensor, iterations: int) -> Tensor:
    """Run SubGM with the median's step size in minimal code."""
    flat, dim = features.flatten(1), len(factor)
    for _ in range(iterations):
        residual = flat @ (factor @ factor.T).flatten() - target
        direction = (residual.sign() @ flat).view(dim, dim) / len(target)
        factor = factor - 0.25 * residual.abs().quantile(0.5) * ((direction + direction.T) @ factor)
    return factor


def test_subgm_against_a_plain_loop(report: Report) -> None:
    table = LowRankMeasurements(20, [1.0, 1.0], 1600, GrossOutliers(0.2, 10.0), seed=0)
    rows, data = table.training(), Tables(table, loading=Loading(passes_per_epoch=30))
    module = SubGM(20, start="random", iterations_per_step=100)
    start = module.factor.detach().clone()

    trainers = iter(some_trainers())

    def fit() -> None:
        module.factor.data.copy_(start)
        next(trainers).fit(module, datamodule=data)

    def loop() -> Tensor:
        return descent(rows.columns["features"], rows.columns["target"], start, 3000)

    ratio = paired_ratio(fit, loop)
    torch.testing.assert_close(module.factor.data, loop(), rtol=0, atol=1e-9)
    report("SubGM through fit against a plain loop of the same iterations", ratio, "<= 1.2")
    assert ratio <= 1.2


def equal_variances(x: np.ndarray, iterations: int) -> np.ndarray:
    """Run the first stage of CoLiDE-EV in minimal code."""
    x = x - x.mean(axis=0)
    cov, identity, dim = x.T @ x / len(x), np.eye(x.shape[1]), x.shape[1]
    weight, mean, square = (np.zeros((dim, dim)) for _ in range(3))
    sigma = np.sqrt(np.diag(cov).min())
    for iteration in range(1, iterations + 1):
        inverse = np.linalg.inv(identity - weight * weight)
        assert not np.any(inverse < -1e-6)
        slope = -cov @ (identity - weight) / sigma + 0.05 * np.sign(weight) + 2 * weight * inverse.T
        mean = 0.99 * mean + 0.01 * slope
        square = 0.999 * square + 0.001 * slope**2
        weight = weight - 3e-4 * (mean / (1 - 0.99**iteration)) / (np.sqrt(square / (1 - 0.999**iteration)) + 1e-8)
        rest = identity - weight
        sigma = np.sqrt(np.trace(rest.T @ cov @ rest) / dim)
    return weight


def test_colide_against_a_plain_loop(report: Report) -> None:
    table = LinearSEM(20, 40, seed=0)
    features, data = table.training().columns["features"].numpy(), Tables(table, loading=Loading(passes_per_epoch=20))
    module: CoLiDE | None = None
    trainers = iter(some_trainers())

    def fit() -> None:
        nonlocal module
        module = CoLiDE(20, warm_iterations=30_000, look_every=100_000)
        next(trainers).fit(module, datamodule=data)

    ratio = paired_ratio(fit, lambda: equal_variances(features, 20_000))
    assert module is not None
    np.testing.assert_allclose(module.path.weight, equal_variances(features, 20_000), atol=0.05)  # the sign flips at 0
    report("CoLiDE through fit against a plain loop of the same iterations", ratio, "<= 1.2")
    assert ratio <= 1.2
