"""What a network's inner layers take and give, without a change to the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.full_precision import at_least_float32
from lightning_modules.networks.weights import listed


def named_layer(network: nn.Module, name: str) -> nn.Module:
    """The layer of a name, or of a name that ends in it (`layer2` finds `network.layer2` of a normalised network).

    Raises:
        ValueError: if no layer or several have the name.
    """
    names = [each for each, _ in network.named_modules() if each == name or each.endswith(f".{name}")]
    if len(names) != 1:
        known = listed([each for each, _ in network.named_modules() if each and each.count(".") <= 2])
        found = f"{len(names)} layers" if names else "no layer"
        raise ValueError(f"feature_layer: {type(network).__name__} has {found} named {name}; it has: {known}")
    return network.get_submodule(names[0])


def classifier_layer(network: nn.Module) -> nn.Linear:
    """A classifier's last linear layer.

    Raises:
        ValueError: if it has none.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"network must end in a linear layer, and {type(network).__name__} has none")
    return layers[-1]


@contextmanager
def layer_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a layer is given within the block, call by call."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def layer_outputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a layer gives within the block, call by call; of a tuple the first part."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hook = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def logits_and_features(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """A classifier's logits `[B, K]`, and the features `[B, D]` that its last linear layer is given."""
    with layer_inputs(classifier_layer(network)) as features:
        logits = network(image)
    return logits, features[-1]


def pooled(feature: Tensor) -> Tensor:
    """Rows of unit length, `[B, D]`: maps `[B, D, H, W]` averaged over places, sequences `[B, T, D]` over positions."""
    if feature.ndim == 4:
        feature = feature.mean(dim=(2, 3))
    elif feature.ndim == 3:
        feature = feature.mean(dim=1)
    return F.normalize(at_least_float32(feature), dim=1)
