"""Perceptrons with the scaling of the tangent kernel equal their formula; the size of their initial outputs."""

import math

import pytest
import torch
from torch import nn

from lightning_modules.networks.ntk_mlp import NTKMLP, UnitActivation


@pytest.mark.parametrize(("name", "published"), [("relu", 0.7071), ("gelu", 0.6516), ("silu", 0.5960)])
def test_activations_have_unit_root_mean_square(name: str, published: float) -> None:
    activation = UnitActivation(name)  # type: ignore[arg-type]
    assert 1 / activation.scale == pytest.approx(published, abs=1e-3)  # estimated from a million draws
    grid = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    density = torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(density * activation(grid) ** 2, grid)) == pytest.approx(1, abs=1e-6)


def test_the_output_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    network = NTKMLP(12, [5, 7], "silu").double()
    x = torch.randn(3, 1, 3, 4, dtype=torch.float64)
    first, second, last = (weight.detach() for weight in network.parameters())
    activation = UnitActivation("silu")
    hidden = activation(second @ activation(first @ x.flatten(1).T / 12**0.5) / 5**0.5)
    torch.testing.assert_close(network(x), (last @ hidden / 7).T)
    linear = NTKMLP(12, []).double()
    torch.testing.assert_close(linear(x), x.flatten(1) @ next(linear.parameters()).T / 12**0.5)


def test_initial_outputs_have_a_variance_of_one_over_the_width() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 20)
    x *= 20**0.5 / x.norm()
    for width in (16, 64):
        found = torch.stack([NTKMLP(20, [width, width])(x).detach() for _ in range(1000)])
        assert float(found.var()) * width == pytest.approx(1, rel=0.2)


def test_weights_can_start_from_zero() -> None:
    assert not any(bool(weight.any()) for weight in NTKMLP(4, [], initial_std=0.0).parameters())


def test_its_weights_are_parameters_alone() -> None:
    network = NTKMLP(4, [3], "gelu")
    assert list(network.state_dict()) == [f"weights.{number}" for number in range(2)]
    assert isinstance(network.activation, nn.Module)
