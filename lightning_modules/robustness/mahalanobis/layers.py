"""Features of selected layers of any network.

A feature is an output channel of a layer, averaged over spatial positions. Source: Lee et al., A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888, section
2.2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_modules.backbones.layer_features import listed_layers, named_layer, pool_features, tap_layers


class Layer(NamedTuple):
    """A layer whose output provides features."""

    module: nn.Module
    channels_last: bool
    """Whether the last dimension of the output is the channel dimension."""


def named_layers(network: nn.Module, names: Sequence[str], channels_last: Sequence[str] = ()) -> dict[str, Layer]:
    """Look up layers of a network by name.

    Args:
        network: network that contains the layers; see `named_layer`.
        names: names of the modules of `network` to look up.
        channels_last: names of the layers whose outputs have the shape `[B, H, W, d]`.

    Raises:
        ValueError: if `names` is empty, has duplicates or contains a name for which there is no module, or if
            `channels_last` is not a subset of `names`.
    """
    if not names:
        raise ValueError(f"layers must name at least one module, got []; {listed_layers(network)}")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"layers must be distinct, got {', '.join(twice)} twice")
    layers = {name: Layer(named_layer(network, name, "layers"), name in channels_last) for name in names}
    if others := [name for name in channels_last if name not in names]:
        raise ValueError(f"channels_last must name some of the layers {', '.join(names)}, got {others[0]}")
    return layers


def _feature(name: str, output: Any, channels_last: bool, square: bool) -> Tensor:
    """Pool the output of a layer to features `[B, d]`.

    Args:
        name: name of the layer, for error messages.
        output: output of the layer: `[B, d]`, `[B, d, H, W]` (or with more or fewer spatial dimensions), or tokens `[B,
            N, d]`.
        channels_last: whether the output has the shape `[B, H, W, d]` instead of `[B, d, H, W]`.
        square: whether the input images are square, which implies H = W.

    Raises:
        ValueError: if the output has a different type or shape.
    """
    if not isinstance(output, Tensor) or output.ndim < 2:
        found = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"layers: the output of {name} must be [B, d], [B, d, H, W] or tokens [B, N, d], got {found}")
    if output.ndim == 4 and square:
        height, width = output.shape[1:3] if channels_last else output.shape[2:]
        if height != width:
            advice = "leave it out of" if channels_last else "if it is [B, H, W, d], name it in"
            order = "[B, H, W, d]" if channels_last else "[B, d, H, W]"
            raise ValueError(
                f"layers: {name} outputs {list(output.shape)}, which is not {order} for square images; {advice} "
                f"channels_last"
            )
    return pool_features(output, channels_last)


@contextmanager
def _features_of(network: nn.Module, layers: dict[str, Layer], image: Tensor) -> Iterator[list[Tensor]]:
    """Collect the features of each layer during a forward pass inside the `with` block.

    The yielded list is filled at the end of the block.
    """
    square, found = image.shape[-2] == image.shape[-1], list[Tensor]()
    modules = {name: layer.module for name, layer in layers.items()}
    with tap_layers(modules, lambda name, output: _feature(name, output, layers[name].channels_last, square)) as seen:
        yield found
    for name, features in seen.items():
        if not features:
            raise ValueError(f"layers: {name} is not used in the forward pass of {type(network).__name__}")
        if len(features) > 1:
            raise ValueError(
                f"layers: {name} is used more than once in a forward pass; name its parent or a different module"
            )
        found.append(features[0])


def layer_features(network: nn.Module, layers: dict[str, Layer], image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute logits and features in one forward pass.

    Args:
        network: network that maps images to logits.
        layers: result of `named_layers`.
        image: `[B, C, H, W]`, in [0, 1].

    Returns:
        Logits `[B, K]`, and the features `[B, d_l]` of each layer.

    Raises:
        ValueError: if a layer is not used exactly once in the forward pass, or if its output is invalid.
    """
    with _features_of(network, layers, image) as features:
        logits = network(image)
    return logits, features


def num_features(network: nn.Module, layers: dict[str, Layer], image_shape: Sequence[int]) -> list[int]:
    """Infer, on the meta device, the number d_l of features of each layer for images of a given shape.

    Raises:
        ValueError: if the network does not accept images of this shape, or `layer_features` rejects a layer.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), None)
    image = torch.empty(2, *image_shape, device="meta", dtype=dtype)
    with _features_of(network, layers, image) as features, torch.no_grad():
        try:
            functional_call(network, weights, image)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"image_shape {list(image_shape)} is not accepted by the network: {reason}") from error
    return [feature.shape[1] for feature in features]
