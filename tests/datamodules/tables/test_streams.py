"""Streams compared with their defining distributions: means, noise and drift."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.classification.digits import Digits
from datamodules.tables.streams import DriftingClasses, LinearLosses, StagedRegression


def test_noise_of_linear_losses_has_its_variance_and_bound() -> None:
    rows = LinearLosses(rounds=100_000, sigma=0.7, changes=3, seed=1).training()
    mean, noise = rows.columns["mean_gradient"], rows.columns["features"] - rows.columns["mean_gradient"]
    torch.testing.assert_close(mean.norm(dim=1), torch.ones(100_000, dtype=torch.float64))
    assert noise.square().sum(1).mean().item() == pytest.approx(0.49, rel=0.01)
    assert noise.mean(0).abs().max() < 0.01
    assert noise.norm(dim=1).max() <= 3 * 0.7 + 1e-12
    assert rows.truth["curvature"] == 0
    assert set(rows.columns["gradient_noise"].tolist()) == {0.7**2}


@pytest.mark.parametrize(
    ("drift", "changes", "path"),
    [("turns", 0, 0.0), ("turns", 2, 4 * np.pi), ("jumps", 3, None), ("signs", None, None)],
)
def test_means_turn_jump_and_change_signs(drift: Any, changes: float | None, path: float | None) -> None:
    given = {} if changes is None else {"changes": changes}
    mean = LinearLosses(rounds=3000, drift=drift, seed=2, **given).training().columns["mean_gradient"]
    moved = mean.diff(dim=0).norm(dim=1)
    if path is not None:
        assert moved.sum().item() == pytest.approx(path, rel=1e-3, abs=1e-12)
    elif drift == "jumps":
        assert moved.nonzero().flatten().tolist() == [999, 1999]
    else:
        assert set(mean[:, 0].tolist()) == {-1.0, 1.0}
        assert mean[:, 0].mean().abs() < 0.1


def test_regression_has_its_stages_and_the_stated_noise_of_gradients() -> None:
    table = StagedRegression(rounds=200_000, dim=4, stages=2, radius=1.5, length=1.2, noise=0.3, seed=3)
    rows = table.training()
    features, target, curvature = rows.columns["features"], rows.columns["target"], rows.truth["curvature"]
    assert features.norm(dim=1).max() <= 1.2
    moment = features.T @ features / len(features)
    torch.testing.assert_close(moment, curvature * torch.eye(4, dtype=torch.float64), rtol=0, atol=3e-3)
    for stage in (slice(0, 100_000), slice(100_000, None)):
        true = -rows.columns["mean_gradient"][stage] / curvature
        assert (true == true[0]).all()
        residual = target[stage] - features[stage] @ true[0]
        assert residual.std().item() == pytest.approx(0.3, rel=0.02)
        farthest = -1.5 * true[0] / true[0].norm()  # where the variance of the gradient is largest
        error = features[stage] @ farthest - target[stage]
        own = features[stage] * error[:, None] - curvature * (farthest - true[0])
        stated = rows.columns["gradient_noise"][stage][0].item()
        assert own.square().sum(1).mean().item() == pytest.approx(stated, rel=0.02)


def test_classes_come_and_go() -> None:
    digits = Digits()
    rows = DriftingClasses(digits, rounds=5000, turns=1.0, concentration=3.0, seed=0).training()
    target, features = rows.columns["target"], rows.columns["features"]
    source = digits.training()
    image = source.fetch(torch.arange(len(source.label)), None).double().flatten(1) / source.data_range
    known = {(tuple(each), label) for each, label in zip(image.tolist(), source.label.tolist(), strict=True)}
    assert all((tuple(features[t].tolist()), target[t].item()) in known for t in range(0, 5000, 50))

    def share(part: Tensor) -> Tensor:
        return torch.bincount(part, minlength=10) / len(part)

    weight = torch.tensor(3 * np.cos(2 * np.pi * (0.5 - np.arange(10) / 10))).softmax(0)
    torch.testing.assert_close(share(target[2250:2750]).double(), weight, rtol=0, atol=0.06)
    assert share(target[:250])[5] < 0.01
    steady = DriftingClasses(digits, rounds=5000, concentration=0.0).training().columns["target"]
    assert (share(steady) - 0.1).abs().max() < 0.02


@pytest.mark.parametrize("table", [LinearLosses(rounds=30), StagedRegression(rounds=30), DriftingClasses(Digits(), 30)])
def test_a_stream_follows_its_seed_and_has_the_stated_shapes(table: Any) -> None:
    first, again = table.training().columns, table.training().columns
    assert {name: tuple(column.shape[1:]) for name, column in first.items()} == dict(table.row_shapes)
    assert all(torch.equal(first[name], again[name]) for name in first)
    table.seed = 1
    assert not torch.equal(first["features"], table.training().columns["features"])
