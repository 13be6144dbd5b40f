"""Layers with functions applied to their weights: names, gradients, and temporary access to the plain weights."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.replacement import (
    FunctionOfThirds,
    WeightFunction,
    effective_weights,
    layers_named,
    replace_layers,
    with_function,
)


class Scaled(WeightFunction):
    """Multiplies the weight by a learned factor in training mode, and by two in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.scale if self.training else 2.0)

    def describe(self) -> dict[str, Any]:
        return {"scale": self.scale.item()}


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, padding_mode="circular"))


def vit() -> nn.Module:
    return timm.models.VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)


def changed(network: nn.Module, patterns: list[str], function: Any = Scaled) -> nn.Module:
    found = layers_named(network, patterns, (nn.Linear, nn.Conv2d), "layers")
    replace_layers(network, found, "layers", lambda _, layer: with_function(layer, function()))
    return network


@pytest.mark.parametrize(
    ("network", "pattern", "shape"),
    [(convolution(), "0", (2, 4, 9, 9)), (vit(), "*.fc1", (2, 3, 8, 8)), (vit(), "*.proj", (2, 3, 8, 8))],
)
def test_baked_weights_are_the_plain_networks_and_give_the_same_outputs(
    network: nn.Module, pattern: str, shape: tuple[int, ...]
) -> None:
    plain, inputs = copy.deepcopy(network), torch.randn(shape)
    with_own = changed(network, [pattern])
    assert set(plain.state_dict()) <= set(with_own.state_dict())
    wrapped: Any = with_own if len(shape) == 4 and shape[1] != 3 else Normalized(with_own, [0.5], [0.5])
    before = wrapped.train()(inputs)
    weights, described = effective_weights(wrapped)
    assert wrapped(inputs).equal(before)  # still in training mode
    plain.load_state_dict(weights)
    outer: Any = plain if wrapped is with_own else Normalized(plain, [0.5], [0.5])
    torch.testing.assert_close(outer.eval()(inputs), wrapped.eval()(inputs))
    assert described
    assert all(value == {"scale": 3.0} for value in described.values())
    assert set(described) <= {name for name, _ in plain.named_modules()}


def test_thirds_of_a_fused_layer_have_functions_of_their_own() -> None:
    layer = nn.Linear(4, 12)
    function = FunctionOfThirds({"k": Scaled()})
    made = with_function(layer, function)
    q, k, v = layer.weight.chunk(3)
    inputs = torch.randn(2, 4)
    torch.testing.assert_close(made(inputs), nn.functional.linear(inputs, torch.cat([q, 3 * k, v]), layer.bias))
    assert function.describe() == {"k": {"scale": 3.0}}


def test_gradients_reach_the_trained_weight_and_the_functions_own_parameters() -> None:
    network = changed(nn.Sequential(nn.Linear(3, 2)), ["0"])
    inputs = torch.randn(5, 3)
    network(inputs).sum().backward()
    weight, bias, scale = (network.get_parameter(f"0.{name}") for name in ("weight", "bias", "function.scale"))
    torch.testing.assert_close(weight.grad, 3 * inputs.sum(dim=0).expand(2, 3))
    torch.testing.assert_close(bias.grad, torch.full((2,), 5.0))
    torch.testing.assert_close(scale.grad, (inputs @ weight.T).sum())
