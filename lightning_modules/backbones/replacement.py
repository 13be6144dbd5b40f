"""Replace layers of a network, chosen by name patterns.

The new layers share the parameters of the old layers, so checkpoints can be exchanged between the plain network and the
changed network. A new layer may also compute with a function of its trained weight. This function is evaluated in every
forward pass. `effective_weights` evaluates it once, and returns the results as weights of the plain network.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_modules.backbones.weights import join_names


def layers_named(
    network: nn.Module, patterns: Sequence[str], kinds: tuple[type[nn.Module], ...], key: str
) -> dict[str, nn.Module]:
    """Return the layers of the classes `kinds` whose names match a pattern, in the order of their definition.

    The output projection of `nn.MultiheadAttention` is excluded, because PyTorch never calls the `forward` of this
    layer.

    Args:
        network: any network.
        patterns: patterns for names in `network.named_modules()`; `*` matches any characters, including dots, and `?`
            matches one character.
        kinds: allowed classes of the layers.
        key: config key of the name patterns, for error messages.
    """
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in network.named_modules()
        if name and isinstance(module, kinds) and not isinstance(module, NonDynamicallyQuantizableLinear)
    }
    chosen = {name: layer for name, layer in layers.items() if any(fnmatchcase(name, each) for each in patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in chosen):
            kind = " or ".join(each.__name__ for each in kinds)
            known = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in layers)) or ["none"]
            raise ValueError(
                f"{key}: {pattern!r} matches no {kind} of {type(network).__name__}; it has: "
                f"{join_names(known, at_most=20)}"
            )
    return chosen


def replace_layers(
    network: nn.Module, layers: Mapping[str, nn.Module], key: str, replaced: Callable[[str, Any], nn.Module]
) -> None:
    """Replace layers of a network, in place, with layers that behave differently in training.

    Args:
        network: network that contains the layers.
        layers: layers to replace, by name.
        key: config key of the name patterns, for error messages.
        replaced: function that receives a layer's name and the layer, and returns a new layer with the same parameters.
    """
    for name, layer in layers.items():
        own_kind: Any = type(layer)
        torchs: Any = next(kind for kind in own_kind.__mro__ if kind.__module__.startswith("torch.nn.modules"))
        if own_kind.forward is not torchs.forward or not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"{key}: {name} is a {own_kind.__name__}, whose computation differs from that of {torchs.__name__}; "
                f"only a plain {torchs.__name__} can be replaced"
            )
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            raise ValueError(f"{key}: {name} is frozen, but its replacement changes only training")
    for name, layer in layers.items():
        network.set_submodule(name, replaced(name, layer).train(layer.training))


class WeightFunction(nn.Module, ABC):
    """Base class of functions that compute a layer's effective weight from its trained weight.

    The function receives the trained weight in its own precision, even under autocast.
    """

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Compute the effective weight, with the shape of `weight`; in evaluation mode, this is the exported weight."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the exported weight by a dictionary of JSON values."""


class FunctionOfThirds(WeightFunction):
    """Apply a separate function to each third of timm's fused `qkv` weight: the query, key and value rows.

    Rows without a function stay unchanged.

    Args:
        functions: functions for the query, key and value rows, under the keys q, k and v; keys may be missing.
    """

    def __init__(self, functions: Mapping[str, WeightFunction]) -> None:
        super().__init__()
        self.functions = nn.ModuleDict(functions)

    def forward(self, weight: Tensor) -> Tensor:
        thirds = zip("qkv", weight.chunk(3), strict=True)
        return torch.cat([self.functions[key](rows) if key in self.functions else rows for key, rows in thirds])

    def describe(self) -> dict[str, Any]:
        described: Any = self.functions
        return {key: function.describe() for key, function in described.items()}


class LinearOfFunction(nn.Linear):
    """A linear layer that shares the parameters of `layer`, and multiplies with a function of the weight."""

    def __init__(self, layer: nn.Linear, function: WeightFunction) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.function(self.weight), self.bias)


class Conv2dOfFunction(nn.Conv2d):
    """A convolution that shares the parameters of `layer`, and convolves with a function of the weight."""

    def __init__(self, layer: nn.Conv2d, function: WeightFunction) -> None:
        geometry: dict[str, Any] = {
            key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")
        }
        kernel: Any = layer.kernel_size
        super().__init__(layer.in_channels, layer.out_channels, kernel, bias=False, device="meta", **geometry)
        self.weight, self.bias = layer.weight, layer.bias
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.function(self.weight), self.bias)


def with_function(layer: nn.Linear | nn.Conv2d, function: WeightFunction) -> nn.Module:
    """Build a layer to replace `layer` that computes with a function of the weight of `layer`."""
    return Conv2dOfFunction(layer, function) if isinstance(layer, nn.Conv2d) else LinearOfFunction(layer, function)


def layers_of_functions(network: nn.Module) -> dict[str, LinearOfFunction | Conv2dOfFunction]:
    """Return, by name, all layers of a network that apply a function to their weight."""
    kinds = (LinearOfFunction, Conv2dOfFunction)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


@torch.no_grad()
def effective_weights(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights with which a network computes in evaluation mode, under the names of the plain network.

    Args:
        network: network whose layers may compute with functions of their weights. Wrappers without weights, such as
            `Normalized`, are removed.

    Returns:
        The state dict of the plain network, and, for each layer with a function, a description of this function.
    """
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    described = {}
    for name, layer in layers_of_functions(network).items():
        training = layer.function.training
        state[f"{name}.weight"] = layer.function.eval()(layer.weight).detach().clone()
        layer.function.train(training)
        described[name] = layer.function.describe()
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.function.")}
    while all(key.startswith("network.") for key in state):
        state, described = (
            {key.removeprefix("network."): value for key, value in each.items()} for each in (state, described)
        )
    return state, described
