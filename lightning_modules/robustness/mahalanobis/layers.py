"""Features of chosen layers of any network: the channels of their output, averaged over places.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
NeurIPS 2018, arXiv 1807.03888, section 2.2.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_modules.networks.normalized import Normalized
from lightning_modules.networks.weights import listed

MOST_NAMES = 60


class Layer(NamedTuple):
    """Where features come from."""

    module: nn.Module
    channels_last: bool
    """Whether places stand before channels in its output."""


def named_layers(network: nn.Module, names: Sequence[str], channels_last: Sequence[str] = ()) -> dict[str, Layer]:
    """The layers of these names, which are those inside a `Normalized` network.

    Args:
        network: has them.
        names: of its modules.
        channels_last: the names of those with outputs `[B, H, W, d]`.

    Raises:
        ValueError: if a name is not the network's, saying which there are; if none or one is given twice; if
            `channels_last` has another one.
    """
    inner = network.network if isinstance(network, Normalized) else network
    available = {name: module for name, module in inner.named_modules() if name}
    if not names:
        raise ValueError(f"layers must name at least one, got []; {type(inner).__name__} {_has(available)}")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"layers must be different ones, got {', '.join(twice)} twice")
    for name in names:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=3)
            hint = f"did you mean {' or '.join(close)}? It" if close else "it"
            raise ValueError(f"layers: {type(inner).__name__} has no layer {name}; {hint} {_has(available)}")
    if others := [name for name in channels_last if name not in names]:
        raise ValueError(f"channels_last: {others[0]} is none of the layers, which are {', '.join(names)}")
    return {name: Layer(available[name], name in channels_last) for name in names}


def _has(available: Sequence[str] | dict[str, nn.Module]) -> str:
    """Names from the outside in, as those on top are the ones that are wanted."""
    order = sorted(available, key=lambda name: name.count("."))
    return f"has: {listed(order, at_most=MOST_NAMES)}"


def pooled(name: str, output: Any, channels_last: bool, square: bool) -> Tensor:
    """A layer's output as features `[B, d]`.

    Args:
        name: the layer's, for messages.
        output: `[B, d]`; `[B, d, H, W]` (or with more or fewer axes of places), averaged over places; tokens
            `[B, N, d]`, averaged over tokens.
        channels_last: it is `[B, H, W, d]` instead.
        square: the network's images are, and so H is W.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(output, Tensor) or output.ndim < 2:
        found = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"layers: {name} gives {found}, and features are [B, d], [B, d, H, W] or tokens [B, N, d]")
    if output.ndim == 2:
        return output
    if output.ndim == 4 and square:
        height, width = output.shape[1:3] if channels_last else output.shape[2:]
        if height != width:
            advice = "leave it out of" if channels_last else "if it is [B, H, W, d], name it in"
            raise ValueError(
                f"layers: {name} gives {list(output.shape)}, which is no "
                f"{'[B, H, W, d]' if channels_last else '[B, d, H, W]'} of square images; {advice} channels_last"
            )
    if channels_last or output.ndim == 3:
        return output.flatten(1, -2).mean(dim=1)
    return output.flatten(2).mean(dim=2)


@contextmanager
def recording(layers: dict[str, Layer], image: Tensor) -> Iterator[dict[str, Tensor]]:
    """Within it, a forward pass of the network on images leaves the layers' features in the dict that it gives."""
    features: dict[str, Tensor] = {}
    square = image.shape[-2] == image.shape[-1]

    def keep(name: str, channels_last: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in features:
                raise ValueError(
                    f"layers: {name} is used more than once in a forward pass; name what it is a part of, or another"
                )
            # At once: a later layer may write into the output.
            features[name] = pooled(name, output, channels_last, square)

        return hook

    handles = [layer.module.register_forward_hook(keep(name, layer.channels_last)) for name, layer in layers.items()]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def layer_features(network: nn.Module, layers: dict[str, Layer], image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One forward pass.

    Args:
        network: maps images to logits.
        layers: the result of `named_layers`.
        image: `[B, C, H, W]`, in [0, 1].

    Returns:
        Logits `[B, K]`, and the features `[B, d_l]` of each layer.

    Raises:
        ValueError: if a layer is not used, or used twice, or its output is no features.
    """
    with recording(layers, image) as features:
        logits = network(image)
    if unused := [name for name in layers if name not in features]:
        raise ValueError(f"layers: {unused[0]} has no part in the forward pass of {type(network).__name__}")
    return logits, [features[name] for name in layers]


def num_features(network: nn.Module, layers: dict[str, Layer], image_shape: Sequence[int]) -> list[int]:
    """d_l of each layer for images of a shape, found without computing anything.

    Raises:
        ValueError: if the network does not accept such images; and as `layer_features`.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), None)
    image = torch.empty(2, *image_shape, device="meta", dtype=dtype)
    with recording(layers, image) as features, torch.no_grad():
        try:
            functional_call(network, weights, image)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"image_shape {list(image_shape)}: the network does not accept it: {reason}") from error
    if unused := [name for name in layers if name not in features]:
        raise ValueError(f"layers: {unused[0]} has no part in the forward pass of {type(network).__name__}")
    return [features[name].shape[1] for name in layers]
