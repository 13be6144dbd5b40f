"""Collect inputs and outputs of inner layers without changing the network, and remove the classifier of a network."""

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import join_names

MOST_NAMES = 60


def named_layer(network: nn.Module, name: str, argument: str = "feature_layer") -> nn.Module:
    """Find the layer named `name`, or else the only layer whose name ends in `name` (`layer2` finds `network.layer2`).

    Args:
        network: network to search; in a `Normalized` network, names of the wrapped network's layers take precedence.
        name: name of the layer.
        argument: config key that contains `name`, for error messages.
    """
    layers = {each: module for each, module in network.named_modules() if each}
    inside = "network." if isinstance(network, Normalized) else ""
    exact = [each for each in (f"{inside}{name}", name) if each in layers]
    ending = [each for each in layers if each.endswith(f".{name}")]
    if not exact and len(ending) != 1:
        close = [] if ending else difflib.get_close_matches(name, [each.removeprefix(inside) for each in layers], n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        found = f"{len(ending)} layers" if ending else "no layer"
        raise ValueError(f"{argument}: there is {found} named {name}; {hint}{listed_layers(network)}")
    return layers[(exact or ending)[0]]


def listed_layers(network: nn.Module) -> str:
    """List the names of a network's layers as text; the outermost layers, which are the likely ones, come first."""
    network = network.network if isinstance(network, Normalized) else network
    names = sorted((name for name, _ in network.named_modules() if name), key=lambda name: name.count("."))
    return f"{type(network).__name__} has: {join_names(names, at_most=MOST_NAMES)}"


def classifier_layer(network: nn.Module) -> nn.Linear:
    """Return a classifier's last linear layer."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"network must end in a linear layer, but {type(network).__name__} has none")
    return layers[-1]


@contextmanager
def tap_layers(
    layers: Mapping[str, nn.Module],
    keep: Callable[[str, Any], Any] = lambda _, value: value,
    inputs: bool = False,
) -> Iterator[dict[str, list[Any]]]:
    """Collect the outputs of layers inside a `with` block: one list for each layer, with one entry for each call.

    Args:
        layers: layers to observe, by name; the names are also the keys of the collected outputs.
        keep: function that computes the value to collect from the name and the output of a layer. It is called
            immediately, before later layers can modify the output in place. If a layer returns a tuple, the first
            element counts as its output.
        inputs: collect the first input of each layer instead of its output.
    """
    seen: dict[str, list[Any]] = {name: [] for name in layers}

    def collect(name: str, value: Any) -> None:
        seen[name].append(keep(name, value[0] if isinstance(value, tuple) else value))

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: collect(name, given))
        if inputs
        else layer.register_forward_hook(lambda _, given, output, name=name: collect(name, output))
        for name, layer in layers.items()
    ]
    # A compiled network would not call the hooks, so compilation is disabled. `set_stance` imports the compiler, so it
    # is called only if the compiler is already imported.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager:
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def logits_and_features(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a classifier's logits, `[B, K]`, and the features, `[B, D]`, that enter its last linear layer."""
    with tap_layers({"classifier": classifier_layer(network)}, inputs=True) as seen:
        logits = network(image)
    return logits, seen["classifier"][-1]


def pool_features(output: Tensor, channels_last: bool = False) -> Tensor:
    """Average a layer's output over spatial positions or tokens; the result is `[B, D]`.

    Args:
        output: features `[B, D]`, tokens `[B, T, D]`, or feature maps such as `[B, D, H, W]`, with any number of
            spatial dimensions.
        channels_last: whether the last dimension of feature maps is the channel, `[B, H, W, D]`.
    """
    if output.ndim == 2:
        return output
    if channels_last or output.ndim == 3:
        return output.flatten(1, -2).mean(dim=1)
    return output.flatten(2).mean(dim=2)


def without_head(network: nn.Module) -> nn.Module:
    """Remove a network's classifier in place, so that the network returns features.

    Args:
        network: network whose last `nn.Linear` is the classifier. All other layers keep their state_dict keys.

    Returns:
        `network` itself.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    if not names:
        raise ValueError(f"network must end in a linear layer, but {type(network).__name__} has none")
    network.set_submodule(names[-1], nn.Identity())
    return network
