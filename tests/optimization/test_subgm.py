"""SubGM compared with autograd, the scale of the expected sub-gradient, and recovery."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from datamodules.corruptions.value_noise import GaussianValues, GrossOutliers
from datamodules.loading import Loading
from datamodules.tables.low_rank_measurements import LowRankMeasurements
from datamodules.tables.tables import Tables
from lightning_modules.optimization.subgm import SubGM, residuals_and_direction, sign_rip, spectral_start
from tests.numbers import numbers
from tests.trainers import quiet

OUTLIERS = GrossOutliers(0.2, 10.0)


def measured(measurements: int, noise: Any = OUTLIERS, seed: int = 0, dim: int = 20) -> LowRankMeasurements:
    return LowRankMeasurements(dim, [1.0, 1.0], measurements, noise, seed)


def recovered(table: LowRankMeasurements, steps: int = 12, **arguments: Any) -> SubGM:
    """Train a module that runs fifty iterations in each training step."""
    torch.manual_seed(0)
    module = SubGM(**{"dim": table.dim, "start": "random", "iterations_per_step": 50, **arguments})
    quiet(max_epochs=1, precision="64-true").fit(
        module, datamodule=Tables(table, loading=Loading(passes_per_epoch=steps))
    )
    return module


def error(module: SubGM, table: LowRankMeasurements) -> float:
    x_star = table.training().truth["x_star"]
    return ((module() - x_star).norm() / x_star.norm()).item()


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_an_iteration_is_a_step_along_autograds_gradient(loss: Any) -> None:
    table = measured(300, dim=7)
    module = recovered(table, 1, loss=loss, alpha=0.7, columns=4, step_rule="constant", eta=0.1, iterations_per_step=1)
    torch.manual_seed(0)
    before = SubGM(7, 4, alpha=0.7).factor
    rows = table.training().columns
    residual = torch.einsum("mij,ij->m", rows["features"], before @ before.T) - rows["target"]
    value = residual.abs().mean() if loss == "absolute" else (residual**2).mean() / 2
    (gradient,) = torch.autograd.grad(value, before)
    torch.testing.assert_close(module.factor.data, before.data - 0.1 * gradient, rtol=0, atol=1e-12)


def test_parts_of_the_measurements_add_up() -> None:
    features, target, factor = numbers(103, 6, 6), numbers(103, seed=1), numbers(6, 3, seed=2)
    residual, direction = residuals_and_direction(features, target, factor, torch.sign)
    for at_once in (1, 10, 200):
        parts = residuals_and_direction(features, target, factor, torch.sign, at_once)
        torch.testing.assert_close(parts, (residual, direction), rtol=0, atol=1e-12)
    assert torch.equal(residuals_and_direction(features, target * 0, factor * 0, torch.sign)[1], torch.zeros(6, 6))


def phi(p: float, std: float, norm: float) -> float:
    """Return the scale of the expected sub-gradient: sqrt(2 / pi) (1 - p + p ||X|| / sqrt(||X||^2 + std^2))."""
    return math.sqrt(2 / math.pi) * (1 - p + p * norm / math.sqrt(norm**2 + std**2))


@pytest.mark.parametrize(("p", "std", "norm"), [(0.2, 10.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_the_expected_scale_is_that_of_random_measurements(p: float, std: float, norm: float) -> None:
    noise = torch.from_numpy(GrossOutliers(p, std).draw((2_000_000,), np.random.default_rng(1)))
    a = numbers(2_000_000)
    drawn = ((a * norm - noise).sign() * a).mean().item()
    assert drawn == pytest.approx(phi(p, std, norm), abs=2e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sub_gradient_points_along_the_error_whatever_the_outliers(seed: int) -> None:
    factor, other = numbers(10, 2, seed=seed), numbers(10, 2, seed=seed + 9)
    difference = factor @ factor.T - other @ other.T
    features = numbers(2000, 10, 10, seed=seed + 20)
    noise = torch.from_numpy(GrossOutliers(0.3, 10.0).draw((2000,), np.random.default_rng(seed)))
    direction = ((features.flatten(1) @ difference.flatten() - noise).sign() @ features.flatten(1)).view(10, 10) / 2000
    cosine, scale = sign_rip(direction, difference)
    assert cosine > 0.93
    assert scale.item() == pytest.approx(phi(0.3, 10.0, difference.norm().item()), rel=0.1)


def test_the_spectral_start_is_in_proportion_to_the_matrix() -> None:
    table = measured(20_000, noise=None, dim=6)
    rows = table.training()
    arrays = rows.columns["features"], rows.columns["target"]
    start = spectral_start(*arrays, 4, 20_000, torch.device("cpu"))
    expected = math.sqrt(2 / math.pi) * rows.truth["x_star"] / rows.truth["x_star"].norm()
    torch.testing.assert_close(start @ start.T, expected, rtol=0, atol=0.02)
    module = recovered(table, 1, start="spectral", alpha=0.1, eta=1e-300, columns=4, iterations_per_step=1)
    torch.testing.assert_close(module.factor.data, 0.1 * start)


def test_a_known_rank_is_recovered_exactly() -> None:
    table = measured(800)
    assert error(recovered(table, columns=2), table) < 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_columns_cost_nothing_from_the_spectral_start(seed: int) -> None:
    table = measured(800, seed=seed)
    few, many = (error(recovered(table, columns=columns, start="spectral"), table) for columns in (5, 20))
    assert many == pytest.approx(few, rel=0.05)
    assert max(many, error(recovered(table, start="random"), table)) < 1e-3


def test_the_error_is_a_power_of_alpha() -> None:
    table = measured(800)
    for alpha, expected in ((1e-1, 1e-2), (1e-3, 2e-4), (1e-6, 3e-8)):
        assert expected / 5 < error(recovered(table, alpha=alpha), table) < 5 * expected


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_start_makes_the_slow_convergence_with_superfluous_columns_linear(seed: int) -> None:
    """From a large start, the error falls only with the inverse of the number of iterations."""
    table = measured(400, seed=seed)
    large = [error(recovered(table, steps, alpha=1.0), table) for steps in (6, 12, 24)]
    assert 1.6 < large[0] / large[1] < 2.1
    assert 1.6 < large[1] / large[2] < 2.1
    assert error(recovered(table, 6, alpha=1.0, columns=2), table) < 1e-12
    assert error(recovered(table, 2, alpha=1e-4), table) < 1e-3 < large[2] / 10


def test_larger_outliers_change_nothing_and_the_squared_loss_is_misled() -> None:
    table, gross = measured(800), measured(800, GrossOutliers(0.2, 1e7))
    assert torch.equal(table.training().columns["corrupted"], gross.training().columns["corrupted"])
    one, other = error(recovered(table), table), error(recovered(gross), gross)
    assert 0.5 < one / other < 2
    assert error(recovered(table, loss="squared", step_rule="constant", eta=0.1), table) > 0.8


def test_shrinking_steps_and_many_outliers() -> None:
    noisy, wrong = measured(1600, GaussianValues(0.5)), measured(1600, GrossOutliers(0.6, 10.0))
    assert error(recovered(noisy, 30, step_rule="geometric"), noisy) < 0.09
    assert error(recovered(wrong, alpha=1e-4, p=0.6, q=0.2), wrong) < 1e-3


def test_turned_measurements_turn_the_iterates(monkeypatch: pytest.MonkeyPatch) -> None:
    table = measured(200, dim=6)
    rows, turn = table.training(), torch.linalg.qr(numbers(6, 6)).Q
    plain = recovered(table, 1, alpha=0.1)
    turned = {**rows.columns, "features": turn.T @ rows.columns["features"] @ turn}
    monkeypatch.setattr(LowRankMeasurements, "training", lambda self: type(rows)(turned, {}))
    torch.manual_seed(0)
    module = SubGM(6, start="random", alpha=0.1, iterations_per_step=50)
    module.factor = nn.Parameter(turn.T @ module.factor.data)
    quiet(max_epochs=1, precision="64-true").fit(module, datamodule=Tables(table))
    torch.testing.assert_close(module.factor.data, turn.T @ plain.factor.data, rtol=0, atol=1e-9)
    assert list(module.tables) == ["singular_values"]  # without X*, nothing else can be computed


def test_tables_tell_signal_and_residual() -> None:
    tables = recovered(measured(800), 3).tables
    error, rip = tables["error"].columns, tables["sign_rip"].columns
    assert error["iteration"] == [50, 100, 150]
    assert error["least signal"][-1] == pytest.approx(1, abs=0.01)
    assert error["greatest residual"][-1] < 0.05
    assert all(0.5 < cosine <= 1 for cosine in rip["cosine"])
    assert len(tables["singular_values"].columns["number"]) == 18


def test_the_quantile_excludes_the_outliers() -> None:
    with pytest.raises(ValueError, match=r"q must be in \(0, 0.4\), got 0.5"):
        SubGM(20, p=0.6, q=0.5)


def test_a_loader_of_ones_own_gives_the_measurements_alone() -> None:
    table = measured(100, dim=5)
    rows = table.training().columns
    loader = DataLoader([{key: rows[key] for key in ("features", "target")}], batch_size=None)  # type: ignore[arg-type]
    torch.manual_seed(0)
    module = SubGM(5, start="random", iterations_per_step=50)
    quiet(max_epochs=1, precision="64-true").fit(module, loader)
    torch.testing.assert_close(module.factor, recovered(table, 1).factor)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batch_size": 10}, "batch_size must be left out for SubGM"),
        ({"rows_on_device": False}, r"model.at_once \(number of measurements"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(max_epochs=1, precision="64-true").fit(SubGM(20), datamodule=Tables(measured(100), **data))


def test_measurements_on_the_host_are_taken_in_parts() -> None:
    table = measured(100, dim=5)
    whole = recovered(table, 1)
    torch.manual_seed(0)
    parts = SubGM(5, start="random", iterations_per_step=50, at_once=30)
    data = Tables(table, rows_on_device=False)
    quiet(max_epochs=1, precision="64-true").fit(parts, datamodule=data)
    torch.testing.assert_close(parts.factor.data, whole.factor.data, rtol=0, atol=1e-10)
