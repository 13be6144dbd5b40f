"""Training of many patch networks: the effect of the rate, divergence as a result, and rejections."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.tables.depleted_sign import DepletedSign
from datamodules.tables.feature_noise import FeatureNoise
from datamodules.tables.tables import Tables
from lightning_modules.dynamics.benign_oscillation import BenignOscillation
from tests.grouped import grouped
from tests.trainers import quiet

S = 4


def module(rate: float, **arguments: Any) -> BenignOscillation:
    torch.manual_seed(0)
    return BenignOscillation(**{"replicas": S, "optimizer": partial(torch.optim.SGD, lr=rate), **arguments})


def data(options: dict[str, Any] | None = None, **arguments: Any) -> Tables:
    table = FeatureNoise(**{"replicas": S, "num_test": 1000, "num_weak_test": 500, **arguments})
    return Tables(table, **grouped(Tables, {"passes_per_epoch": 5, **(options or {})}))


def results(rate: float, epochs: int = 5, **arguments: Any) -> tuple[dict[str, float], BenignOscillation]:
    trained, points = module(rate), data(**arguments)
    trainer = quiet(max_epochs=epochs, precision="64-true", limit_val_batches=0)
    trainer.fit(trained, datamodule=points)
    [found] = trainer.test(trained, datamodule=points, verbose=False)
    return dict(found), trained


def test_inside_the_window_the_weak_feature_is_learned() -> None:
    found, trained = results(2.8)
    assert found["test/weak_accuracy"] > 0.95
    assert found["test/strong_accuracy"] == 1
    assert found["test/accuracy"] == pytest.approx((found["test/weak_accuracy"] + 1) / 2)
    assert found["test/a"] == pytest.approx(1.4)
    assert (found["test/in_window"], found["test/least_rate"]) == (1, 2)
    assert found["test/oscillation_held"] == found["test/weak_feature_learned"] == 1
    assert 0.3 < found["test/oscillating_draws"] < 1
    assert found["test/oscillation_held_always"] == found["test/diverged"] == 0
    assert found["test/residual_sum"] > 60
    course, networks = trained.tables["course"].columns, trained.tables["networks"].columns
    assert course["iteration"] == [160 * (row + 1) for row in range(25)] * 3
    assert min(course["<w+, v>"][24::25]) > 0.3
    assert len(networks["weak_accuracy"]) == S


def test_just_below_it_is_not() -> None:
    found, _ = results(1.9)
    assert found["test/weak_accuracy"] < 0.85
    assert found["test/strong_accuracy"] == 1
    assert found["test/in_window"] == found["test/oscillation_held"] == found["test/weak_feature_learned"] == 0
    assert found["test/rms_residual"] < 0.2


def test_at_a_small_rate_the_weak_filters_stay_near_their_start() -> None:
    _, trained = results(0.1, weak_norm=0.1, noise_std=0.07)
    weak = [torch.tensor(trained.tables["course"].columns["<w+, v>"][place]) for place in (25, 49)]  # the median's
    assert float(weak[0]) / 3 < float(weak[1]) < 3 * float(weak[0])


def test_training_of_which_all_networks_diverge_ends_and_says_so() -> None:
    found, trained = results(8 * 4.0)
    assert found["test/diverged"] == 1
    assert int(trained.iteration) == 5 * 160
    assert "test/weak_accuracy" not in found
    assert "networks" not in trained.tables


def test_a_network_that_diverged_enters_no_mean() -> None:
    trained, points = module(2.8), data()
    with torch.no_grad():
        trained.weight[1] *= 100
    trainer = quiet(max_epochs=5, precision="64-true", limit_val_batches=0)
    trainer.fit(trained, datamodule=points)
    [found] = trainer.test(trained, datamodule=points, verbose=False)
    assert found["test/diverged"] == 1 / S
    assert found["test/weak_accuracy"] > 0.95
    assert len(trained.tables["networks"].columns["weak_accuracy"]) == S - 1


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(torch.optim.SGD, lr=1.0, momentum=0.9), "model.optimizer must be plain SGD, got momentum 0.9"),
        (partial(torch.optim.SGD, lr=1.0, weight_decay=1e-4), "plain SGD, got weight_decay 0.0001"),
        (partial(torch.optim.Adam, lr=1.0), r"model.optimizer must be torch.optim.SGD, got Adam"),
        (partial(torch.optim.SGD, lr=0.0), "lr must be positive, got 0.0"),
    ],
)
def test_any_other_optimizer_is_refused(optimizer: Callable[..., torch.optim.Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenignOscillation(optimizer=optimizer)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (data({"batch_size": 2}), {}, "data.batch_size must be unset, got 2: .* batches of one point"),
        (data(replicas=3), {}, "data.table.replicas must equal model.replicas, 4, got 3"),
        (data(dim=32), {}, "data.table.dim must equal model.dim, 64, got 32"),
        (Tables(DepletedSign(9)), {}, "data.table must be a FeatureNoise for BenignOscillation, got DepletedSign"),
        (data(), {"precision": "bf16-mixed"}, "trainer.precision must be 64-true"),
        (data(), {"gradient_clip_val": 1.0}, "gradient_clip_val=1.0"),
        (data(), {"accumulate_grad_batches": 2}, "accumulate_grad_batches=2"),
    ],
)
def test_what_the_theory_does_not_cover_is_refused(points: Tables, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, MisconfigurationException), match=message):
        quiet(max_epochs=1, **{"precision": "64-true", **options}).fit(module(1.0), datamodule=points)
