"""Observables compared with gradients that are computed one by one."""

import copy
import math

import pytest
import torch
from torch import Tensor

from lightning_modules.dynamics.sgd_noise.descent import hinge
from lightning_modules.dynamics.sgd_noise.observables import (
    along_and_across,
    final_observables,
    fit_statistics,
    kernel_statistics,
    note_times,
    outputs,
    squared_changes,
    tangent_kernel,
)
from lightning_modules.networks.ntk_mlp import NTKMLP
from lightning_modules.networks.ntk_mnas import NTKMnas

ALPHA = 3.0


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy with different weights."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return other


def gradients(network: torch.nn.Module, values: Tensor) -> Tensor:
    """Return the gradient of each value as a row."""
    parameters = list(network.parameters())
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in values]
    return torch.stack([torch.cat([each.flatten() for each in row]) for row in rows])


@pytest.mark.parametrize(
    ("network", "shape"), [(NTKMLP(6, [5, 4]), (20, 6)), (NTKMnas(2, in_channels=1), (3, 1, 8, 8))]
)
def test_the_kernel_and_the_gradients_are_those_of_single_points(
    network: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    initial = network.double()
    network = moved(initial)
    features = torch.randn(*shape, dtype=torch.float64)
    sign = torch.randn(shape[0], dtype=torch.float64).sign()
    row, row_before = (gradients(each, each(features).flatten()) for each in (network, initial))
    kernel, before = tangent_kernel(network, features), tangent_kernel(initial, features)
    torch.testing.assert_close(kernel, row @ row.T)
    signed = sign * (network(features) - outputs(initial, features)[:, None]).flatten()
    found = kernel_statistics(kernel, before, signed.detach(), sign, ALPHA)
    loss = gradients(network, hinge(signed, ALPHA))
    mean = loss.mean(dim=0)
    expected = {
        "kernel_change": ((row @ row.T - row_before @ row_before.T) ** 2).mean() / ((row @ row.T) ** 2).mean(),
        "overlap": ((sign @ row) ** 2).sum() / len(sign) ** 2,
        "gradient_norm": (mean**2).sum(),
        "gradient_variance": ((loss - mean) ** 2).sum(dim=1).mean(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_at_the_start_the_loss_is_one_and_the_error_too() -> None:
    found = fit_statistics(torch.zeros(5, dtype=torch.float64), ALPHA)
    assert {name: float(value) for name, value in found.items()} == {
        "loss": 1.0,
        "error": 1.0,
        "margin": 0.0,
        "unfitted": 5.0,
    }


def test_how_well_points_are_fitted() -> None:
    signed = torch.tensor([0.5, 0.1, -1.0, math.inf, math.nan], dtype=torch.float64)
    found = fit_statistics(signed[:3], 4.0)
    assert [float(found[name]) for name in ("loss", "error", "margin", "unfitted")] == pytest.approx(
        [(0.6 + 5) / 3, 1 / 3, -4, 2]
    )
    assert float(fit_statistics(signed, 4.0)["error"]) == pytest.approx(3 / 5)
    assert float(fit_statistics(signed[:3], math.inf)["loss"]) == pytest.approx(1 / 3)


def test_changes_of_weights_and_along_the_teacher() -> None:
    torch.manual_seed(0)
    initial = NTKMLP(5, []).double()
    network = moved(initial)
    change, before = squared_changes(network, initial)
    [(now, then)] = zip(network.parameters(), initial.parameters(), strict=True)
    assert float(change) == pytest.approx(float(((now - then) ** 2).sum()))
    assert float(before) == pytest.approx(float((then**2).sum()))
    direction = torch.zeros(5, dtype=torch.float64)
    direction[2] = 1
    moves = (now - then).detach().flatten()
    along, across = along_and_across(network, initial, direction)
    assert along == pytest.approx(float(moves[2]))
    assert across == pytest.approx(float((moves[[0, 1, 3, 4]] ** 2).mean().sqrt()))


def test_times_until_half_and_nine_tenths_of_the_points_are_fitted() -> None:
    times: dict[str, float] = {}
    for time, unfitted in ((1.0, 0.8), (2.0, 0.5), (3.0, 0.6), (4.0, 0.08), (5.0, 0.0)):
        note_times(times, time, unfitted)
    assert times == {"time_to_half": 2, "time_to_nine_tenths": 4}
    ended = {"unfitted": 0.0, "training_time": 5.0}
    assert final_observables(ended, times) == {**ended, **times, "late_share": pytest.approx(0.2)}
    left = {"unfitted": 3.0, "training_time": 5.0}
    assert final_observables(left, {}) == {"unfitted": 3, "training_time": math.inf}
    at_once = {"unfitted": 0.0, "training_time": 3.5}  # all points were fitted before the end of the epoch
    assert final_observables(at_once, times)["late_share"] == 0
    at_first = {"unfitted": 0.0, "training_time": 0.0}  # no step was needed, so the share is undefined
    assert "late_share" not in final_observables(at_first, times)
