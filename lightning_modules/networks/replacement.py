"""Put other layers in the place of a network's own ones, which patterns of their names choose.

The new layers hold the very parameters of the old ones, so that a checkpoint of the plain network loads into the
changed one and the other way round.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_modules.networks.weights import listed


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
        ValueError: if a layer is frozen.
    """
    for name, layer in layers.items():
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            raise ValueError(f"{key}: {name} is frozen, and what replaces it changes its training alone")
    for name, layer in layers.items():
        network.set_submodule(name, replaced(name, layer).train(layer.training))
