"""Put other layers in the place of a network's own ones, which patterns of their names choose.

The new layers hold the very parameters of the old ones, so that a checkpoint of the plain network loads into the
changed one and the other way round. Layers may also compute with a function of the weight that is trained, which is
computed anew in every forward pass; `effective_weights` gives the plain network's weights of that moment.
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

from lightning_modules.backbones.weights import listed


def layers_named(
    network: nn.Module, patterns: Sequence[str], kinds: tuple[type[nn.Module], ...], key: str
) -> dict[str, nn.Module]:
    """Find the layers of some kinds whose names match one of some patterns, in the order of definition.

    The output projection of `nn.MultiheadAttention`, which is never called, is not among them.

    Args:
        network: any network.
        patterns: names as in `network.named_modules()`; `*` stands for any characters, dots too, and `?` for one.
        kinds: classes of the layers.
        key: what the configuration calls the patterns, for messages.

    Raises:
        ValueError: if a pattern matches no such layer; it says what there is.
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
                f"{key}: {pattern!r} is no {kind} of {type(network).__name__}; it has: {listed(known, at_most=20)}"
            )
    return chosen


def replace_layers(
    network: nn.Module, layers: Mapping[str, nn.Module], key: str, replaced: Callable[[str, Any], nn.Module]
) -> None:
    """Replace layers of a network, in place, by others that train differently.

    Args:
        network: holds the layers.
        layers: by name.
        key: what the configuration calls their names, for messages.
        replaced: gives the layer that takes the place of the one of a name, with the same parameters.

    Raises:
        ValueError: if a layer is frozen, or computes something else than the layer of torch that it is a kind of.
    """
    for name, layer in layers.items():
        own_kind: Any = type(layer)
        torchs: Any = next(kind for kind in own_kind.__mro__ if kind.__module__.startswith("torch.nn.modules"))
        if own_kind.forward is not torchs.forward or not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"{key}: {name} is a {own_kind.__name__}, which computes something else than a {torchs.__name__}"
            )
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            raise ValueError(f"{key}: {name} is frozen, and what replaces it changes its training alone")
    for name, layer in layers.items():
        network.set_submodule(name, replaced(name, layer).train(layer.training))


class WeightFunction(nn.Module, ABC):
    """Computes the weight that a layer works with from the one that is trained.

    Under autocast it is given the trained weight in the precision that this has.
    """

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Give the weight of a forward pass, of the same shape; in evaluation mode the one that is exported."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say what the exported weight is, in what JSON can hold."""


class FunctionOfThirds(WeightFunction):
    """Functions of the rows of queries, keys and values in timm's fused `qkv`; rows without one stay as they are.

    Args:
        functions: by q, k or v.
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
    """A linear layer with the parameters of another one, which works with a function of its weight."""

    def __init__(self, layer: nn.Linear, function: WeightFunction) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.function(self.weight), self.bias)


class Conv2dOfFunction(nn.Conv2d):
    """A convolution with the parameters of another one, which works with a function of its weight."""

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
    """Give what takes a layer's place and works with a function of its weight."""
    return Conv2dOfFunction(layer, function) if isinstance(layer, nn.Conv2d) else LinearOfFunction(layer, function)


def layers_of_functions(network: nn.Module) -> dict[str, LinearOfFunction | Conv2dOfFunction]:
    """Find the layers that work with functions of their weights, by name."""
    kinds = (LinearOfFunction, Conv2dOfFunction)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


@torch.no_grad()
def effective_weights(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give the weights that a network works with in evaluation mode, as the plain network has them.

    Args:
        network: its layers may work with functions of their weights. Wrappers that hold a network as `network` and no
            weight of their own, such as `Normalized`, are taken off.

    Returns:
        The state dict of the plain network, and by the names of its layers what the functions say of their weights.
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
