"""Training until all points are fitted: when it ends, how long it takes, its tables, and rejections."""

import math
from typing import Any

import pytest
import torch

from callbacks.guards.finite_loss import FiniteLoss
from datamodules.tables.depleted_sign import DepletedSign
from datamodules.tables.tables import Tables
from lightning_modules.dynamics.sgd_noise import SGDNoise
from lightning_modules.dynamics.sgd_noise.descent import drawn_batches
from lightning_modules.networks.ntk_mlp import NTKMLP
from tests.grouped import grouped
from tests.trainers import quiet


def perceptron(**arguments: Any) -> SGDNoise:
    network = NTKMLP(4, [], initial_std=0.0)
    options = {"temperature": 0.5, "alpha": math.inf, "iterations_per_step": 20, "kernel_points": 8}
    return SGDNoise(network, **{**options, **arguments})


def points(num_points: int = 60, **arguments: Any) -> Tables:
    return Tables(
        DepletedSign(num_points, dim=4, depletion=1.0, num_test=50),
        **grouped(Tables, {"passes_per_epoch": 2, **arguments}),
    )


def fitted(module: SGDNoise, data: Tables, **options: Any) -> dict[str, float]:
    trainer = quiet(**{"max_epochs": 400, "precision": "64-true", **options})
    trainer.fit(module, datamodule=data)
    [found] = trainer.test(module, datamodule=data, verbose=False)
    assert trainer.current_epoch < 400
    return dict(found)


def test_a_perceptron_is_trained_until_it_fits_all_points_and_its_time_is_exact() -> None:
    data = points()
    found = fitted(perceptron(), data)
    rows = DepletedSign(60, dim=4, depletion=1.0, seed=0).training()
    x, y = rows.columns["features"] / 2, rows.columns["target"]
    w, steps = torch.zeros(4, dtype=torch.float64), 0
    while not bool((y * (x @ w) > 0).all()):  # the perceptron rule, one point at a time
        at = int(drawn_batches(0, torch.tensor([steps]), 60, 1))
        w = w + 0.5 * y[at] * x[at] * (y[at] * (x[at] @ w) <= 0)
        steps += 1
    assert found["test/training_time"] == 0.5 * steps
    assert found["test/signal"] == pytest.approx(float(w[0]), rel=1e-12)
    assert found["test/noise"] == pytest.approx(float((w[1:] ** 2).mean().sqrt()), rel=1e-12)
    assert found["test/weight_change"] == pytest.approx(float(w.norm()), rel=1e-12)
    for name in ("training_loss", "training_error", "points_left", "diverged"):
        assert found[f"test/{name}"] == 0
    assert found["test/kernel_change"] == 0  # the kernel of a perceptron is constant
    test = DepletedSign(60, dim=4, depletion=1.0, num_test=50).test().columns
    assert found["test/error"] == pytest.approx(float((test["target"] * (test["features"] @ w) <= 0).double().mean()))
    assert "test/relative_weight_change" not in found


def test_tables_hold_the_course_of_training_and_each_tensor_of_weights() -> None:
    torch.manual_seed(0)
    module = SGDNoise(NTKMLP(4, [16, 16]), 0.5, alpha=8.0, batch_size=3, iterations_per_step=20, kernel_points=8)
    found = fitted(module, points())
    course, weights = module.tables["course"].columns, module.tables["weights"].columns
    assert course["unfitted"][-1] == 0 == course["loss"][-1]
    assert all(later >= 1.25 * time for time, later in zip(course["time"], course["time"][1:-1], strict=False))
    assert course["training_time"][-1] == found["test/training_time"] <= course["time"][-1]
    squares = [
        change
        for change, time in zip(weights["squared_change"], weights["time"], strict=True)
        if time == course["time"][-1]
    ]
    before = math.sqrt(sum(float((each**2).sum()) for each in module.initial.parameters()))
    assert len(squares) == 3
    assert math.sqrt(sum(squares)) == pytest.approx(course["weight_change"][-1])
    assert course["relative_weight_change"][-1] == pytest.approx(course["weight_change"][-1] / before)
    assert 0 < course["kernel_change"][-1] < 1
    assert 0 < found["test/time_to_half"] <= found["test/time_to_nine_tenths"] < found["test/training_time"]
    late = 1 - found["test/time_to_nine_tenths"] / found["test/training_time"]
    assert found["test/late_share"] == pytest.approx(late, rel=1e-6)
    assert "signal" not in course  # no single weight tensor lies along the direction


def test_what_is_not_fitted_at_the_last_epoch_is_told() -> None:
    module = perceptron(temperature=1e-3, alpha=1e-3)
    trainer = quiet(max_epochs=2, precision="64-true")
    trainer.fit(module, datamodule=points())
    [found] = trainer.test(module, datamodule=points(), verbose=False)
    assert found["test/points_left"] > 0
    assert found["test/training_time"] == math.inf
    assert module.tables["course"].columns["time"][-1] == pytest.approx(2 * 2 * 20 * 1e-3)


def test_training_that_diverges_ends_with_this_result() -> None:
    torch.manual_seed(0)
    module = SGDNoise(NTKMLP(4, [16, 16, 16]), 1e4, batch_size=8, iterations_per_step=20, kernel_points=8)
    trainer = quiet(max_epochs=9, callbacks=[FiniteLoss()])
    trainer.fit(module, datamodule=points())
    assert trainer.current_epoch < 9
    [found] = trainer.test(module, datamodule=points(), verbose=False)
    assert found == {"test/diverged": 1}
    again = SGDNoise(NTKMLP(4, [16, 16, 16]), 1e4)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    assert trainer.test(again, datamodule=points(), verbose=False) == [found]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "soft_hinge"}, "alpha is infinite, which needs loss hinge, got soft_hinge"),
        ({"network": NTKMLP(4, [])}, "alpha is infinite, which needs a network with zero weights"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGDNoise(**{"network": NTKMLP(4, [], initial_std=0.0), "temperature": 1.0, "alpha": math.inf, **arguments})


@pytest.mark.parametrize(
    ("arguments", "data", "options", "message"),
    [
        ({}, {}, {"precision": "bf16-true"}, "trainer.precision bf16-true is too low"),
        ({}, {"batch_size": 8}, {}, "data.batch_size must be unset"),
        ({"batch_size": 61}, {}, {}, "model.batch_size must be at most 60, the number of training points, got 61"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    arguments: dict[str, Any], data: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(perceptron(**arguments), points(**data), **options)
