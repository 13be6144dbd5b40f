"""Iterations of microseconds through `fit`, each against a plain loop of the same iterations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from datamodules.corruptions.value_noise import GrossOutliers
from datamodules.tables.low_rank_measurements import LowRankMeasurements
from datamodules.tables.tables import Tables
from lightning_modules.optimization.subgm import SubGM
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def descent(features: Tensor, target: Tensor, factor: Tensor, iterations: int) -> Tensor:
    """SubGM with the median's step size, in the fewest lines."""
    flat, dim = features.flatten(1), len(factor)
    for _ in range(iterations):
        residual = flat @ (factor @ factor.T).flatten() - target
        direction = (residual.sign() @ flat).view(dim, dim) / len(target)
        factor = factor - 0.25 * residual.abs().quantile(0.5) * ((direction + direction.T) @ factor)
    return factor


def test_subgm_against_a_plain_loop(report: Report) -> None:
    table = LowRankMeasurements(20, [1.0, 1.0], 1600, GrossOutliers(0.2, 10.0), seed=0)
    rows, data = table.training(), Tables(table, passes_per_epoch=30)
    module = SubGM(20, start="random", iterations_per_step=100)
    start = module.factor.detach().clone()

    def fit() -> None:
        module.factor.data.copy_(start)
        quiet(max_epochs=1, precision="64-true").fit(module, datamodule=data)

    def loop() -> Tensor:
        return descent(rows.columns["features"], rows.columns["target"], start, 3000)

    ratio = paired_ratio(fit, loop)
    torch.testing.assert_close(module.factor.data, loop(), rtol=0, atol=1e-9)
    report("SubGM through fit against a plain loop of the same iterations", ratio, "<= 1.2")
    assert ratio <= 1.2
