"""Streams played through the trainer: when points are chosen, how rounds are formed, and their cost."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from datamodules.tables.streams import LinearLosses, StagedRegression
from datamodules.tables.svmlight import SVMLight
from datamodules.tables.table_set import Rows, TableSet
from datamodules.tables.tables import Tables
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.optimistic_omd import (
    OnlineConvexOptimization,
    OnlineGradientDescent,
    OptimisticFTRL,
    OptimisticOMD,
)
from tests.trainers import quiet

OMD = partial(OptimisticOMD, D=2.0, G=4.0, delta=1.0)


class Given(TableSet):
    """A stream with given columns."""

    def __init__(self, columns: dict[str, Tensor], truth: dict[str, Tensor] | None = None) -> None:
        self.rows = Rows(columns, truth or {})

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(column.shape[1:]) for name, column in self.rows.columns.items()}

    def training(self) -> Rows:
        return self.rows

    def test(self) -> Rows:
        return self.rows


def played(
    table: TableSet, batch_size: int = 50, network: nn.Module | None = None, shuffle: bool = False, **arguments: Any
) -> OnlineConvexOptimization:
    torch.manual_seed(0)
    network = network or nn.Linear(table.row_shapes["features"][0], 1, bias=False)
    module = OnlineConvexOptimization(network, **{"loss": "linear", "optimizer": OMD, **arguments})
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, datamodule=Tables(table, batch_size, shuffle=shuffle))
    return module


def figures(module: OnlineConvexOptimization) -> dict[str, float]:
    return {name: value.item() for name, value in module._hindsight()[0].items()}


def history(module: OnlineConvexOptimization) -> Tensor:
    return torch.cat(module.history)


def classes(rows: int = 91) -> Given:
    random = torch.Generator().manual_seed(4)
    features = torch.randn(rows, 3, generator=random, dtype=torch.float64)
    target = (features[:, 0] + torch.randn(rows, generator=random, dtype=torch.float64)).sign()
    return Given({"features": features, "target": target})


def test_a_point_is_chosen_before_its_round_is_seen() -> None:
    """A changed round 20 affects no point up to this round, but does affect the next one."""
    rows = LinearLosses(rounds=30, sigma=0.5).training()
    other = {**rows.columns, "features": rows.columns["features"].clone()}
    other["features"][20] *= -1
    for batch_size in (1, 30):  # also within a batch
        one, two = (history(played(Given(dict(each), dict(rows.truth)), batch_size)) for each in (rows.columns, other))
        expected = one[:, 3], two[:, 3]  # F_t(x_t) of streams with equal means
        assert torch.equal(expected[0][:21], expected[1][:21])
        assert expected[0][21] != expected[1][21]


@pytest.mark.parametrize("rows_per_round", [1, 3])
def test_rounds_do_not_depend_on_the_batches_that_bring_them(rows_per_round: int) -> None:
    table = StagedRegression(rounds=60, dim=3, stages=4)
    one, other = (
        played(table, size, loss="squared", rows_per_round=rows_per_round)
        for size in (rows_per_round, 7 * rows_per_round)
    )
    assert len(history(one)) == 60 // rows_per_round
    torch.testing.assert_close(history(one), history(other), rtol=0, atol=1e-14)
    assert figures(one)["stochastic_variance"] == pytest.approx(
        table.training().columns["gradient_noise"].sum().item() / rows_per_round**2
    )


def test_a_round_evaluates_the_network_once() -> None:
    network, calls = nn.Linear(5, 1, bias=False), []
    network.register_forward_hook(lambda *_: calls.append(1))
    played(LinearLosses(rounds=40, sigma=0.1), network=network)
    assert len(calls) == 40


def test_losses_and_variation_are_those_of_the_points() -> None:
    module = played(classes(), 10, loss="logistic", rows_per_round=2, ridge=0.3)
    features, target = (classes().rows.columns[key] for key in ("features", "target"))
    x, optimizer, before, variation = torch.zeros(3, dtype=torch.float64), None, torch.zeros(3).double(), 0.0
    weight = nn.Parameter(x.clone())
    optimizer = OMD([weight])
    for t, start in enumerate(range(0, 90, 2)):
        own = slice(start, start + 2)
        loss = nn.functional.softplus(-target[own] * (features[own] @ weight)).mean() + 0.15 * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        assert history(module)[t, 0].item() == pytest.approx(loss.item(), abs=1e-14)
        assert weight.grad is not None
        variation += (weight.grad - before).square().sum().item()
        before = weight.grad.clone()
        optimizer.step()
    assert history(module)[:45, 2].sum().item() == pytest.approx(variation)
    assert history(module)[45, 1] == 1  # the last round has one row


def test_of_the_points_only_their_mean_is_kept() -> None:
    """For linear losses, the excess risk of the mean point is <slope, mean of x_t> + radius |slope|."""
    rows = LinearLosses(rounds=40, sigma=0.3).training()
    module = played(Given(dict(rows.columns), dict(rows.truth)), 7)
    assert history(module).shape == (40, 5 + 5)  # loss, rows, variation, expected loss and noise; slope
    weight, points = nn.Parameter(torch.zeros(5, dtype=torch.float64)), []
    optimizer = OMD([weight])
    for gradient in rows.columns["features"]:
        points.append(weight.detach().clone())
        weight.grad = gradient.clone()
        optimizer.step()
    slope = history(module)[:, 5:].mean(0)
    expected = slope @ torch.stack(points).mean(0) + slope.norm()
    assert figures(module)["excess_risk"] == pytest.approx(expected.item(), abs=1e-12)


def test_ridge_is_part_of_the_curvature_of_known_losses() -> None:
    assert [played(LinearLosses(rounds=10), ridge=ridge).curvature.item() for ridge in (0.0, 0.3)] == [0.0, 0.3]


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_regret_of_observed_losses_is_against_the_best_point_that_scipy_finds(ridge: float) -> None:
    table = classes()
    module = played(table, 20, loss="logistic", rows_per_round=3, ridge=ridge)
    features, target = (table.rows.columns[key].numpy() for key in ("features", "target"))
    rounds = [slice(start, min(start + 3, stop)) for stop, start in _starts(91, 20, 3)]

    def total(u: np.ndarray) -> float:
        loss = np.logaddexp(0, -target * (features @ u))
        return sum(loss[own].mean() for own in rounds) + len(rounds) * ridge / 2 * u @ u

    ball = {"type": "ineq", "fun": lambda u: 1 - u @ u}
    best = minimize(total, np.zeros(3), method="SLSQP", constraints=[ball], options={"ftol": 1e-14}).fun
    found = figures(module)
    assert found["static_regret"] == pytest.approx(history(module)[:, 0].sum().item() - best, abs=1e-3)
    assert 0 <= found["comparator_gap"] <= 1e-6 * (1 + best)
    table_of_regret = module.tables["regret"].columns
    assert table_of_regret["regret"][-1] == pytest.approx(found["static_regret"])
    assert table_of_regret["round"][-1] == len(rounds)


def _starts(rows: int, batch_size: int, rows_per_round: int) -> list[tuple[int, int]]:
    """For each round, return the end of its batch and the start of the round."""
    batches = [(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    return [(stop, start) for first, stop in batches for start in range(first, stop, rows_per_round)]


def test_without_noise_the_hint_follows_what_turns() -> None:
    """For 4,000 rounds and eight turns, the regret is 2 for OMD and 175 for OGD; this test has a quarter of both."""
    table = LinearLosses(rounds=1000, sigma=0.0, changes=2)
    omd = figures(played(table, 100, optimizer=partial(OptimisticOMD, D=2.0, G=1.0, delta=1.0)))
    ogd = figures(played(table, 100, optimizer=partial(OnlineGradientDescent, D=2.0, G=1.0)))
    ftrl = figures(played(table, 100, optimizer=partial(OptimisticFTRL, D=2.0, G=1.0)))
    assert omd["dynamic_regret"] < 2
    assert ogd["dynamic_regret"] > 12
    assert ftrl["dynamic_regret"] > ogd["dynamic_regret"]
    assert omd["path_length"] == pytest.approx(4 * np.pi, rel=0.01)
    assert omd["adversarial_variation"] == pytest.approx(omd["gradient_variation"])


def test_the_last_layer_of_a_network_learns_alone() -> None:
    network = MLP(3, [16], 2)
    module = played(
        Given({"features": torch.randn(40, 3), "target": torch.arange(40) % 2}),
        network=network,
        loss="cross_entropy",
        trained="layers.2",
        optimizer=partial(OptimisticOMD, D=2.0, G=20.0),
    )
    torch.manual_seed(0)
    assert network.layers[2].weight.abs().max() > 0
    assert [name for name, each in network.named_parameters() if each.requires_grad] == module.names
    assert module.names == ["layers.2.weight", "layers.2.bias"]
    assert not any(part.training for part in network.modules())
    assert figures(module)["static_regret"] > 0


def test_an_unknown_part_of_the_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"trained must be a part of the network, .* layers\.0, got head"):
        OnlineConvexOptimization(MLP(3, [], 1), "linear", OMD, trained="head")


def test_a_gradient_beyond_the_bound_ends_the_run_with_its_round() -> None:
    rows = LinearLosses(rounds=30, sigma=0.1).training()
    columns = {**rows.columns, "features": rows.columns["features"].clone()}
    columns["features"][17] *= 9
    with pytest.raises(ValueError, match=r"G is 4.0, but the gradient of round 18 has norm"):
        played(Given(columns, dict(rows.truth)), 10)
    with pytest.raises(ValueError, match="network must have 5 trained parameters for this stream, got 6"):
        played(LinearLosses(rounds=30), network=nn.Linear(5, 1))
    with pytest.raises(TypeError, match="optimizer must be an OnlineOptimizer of optimistic_omd, got SGD"):
        played(LinearLosses(rounds=30), optimizer=partial(torch.optim.SGD, lr=0.1))


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "width", "G"),
    [("a8a.bz2", 123, 3.8), ("w8a.bz2", 300, 11.0), ("mushrooms.bz2", 112, 4.6), ("ijcnn1.val.bz2", 22, 1.7)],
)
def test_regret_on_libsvms_streams(file: str, width: int, G: float) -> None:
    """In random order, the regret is positive, the gap certifies it, and it is far below that of playing zero."""
    if not os.environ.get("NOISEWORKS_DATA"):
        pytest.skip("NOISEWORKS_DATA is not set")
    module = played(
        SVMLight(file, width),
        1000,
        shuffle=True,
        loss="logistic",
        rows_per_round=10,
        optimizer=partial(OptimisticOMD, D=10.0, G=G, delta=1.0),
    )
    found, rounds = figures(module), len(history(module))
    least = history(module)[:, 0].sum().item() - found["static_regret"]
    print({"file": file, "rounds": rounds, **found})
    assert found["comparator_gap"] < 0.01 * found["static_regret"]
    assert 0 < found["static_regret"] < 0.5 * (rounds * np.log(2) - least)
