"""Layers that compute with copies of their frozen weights, which are stored on the CPU or in float8.

A copy exists while its layer is called, and until the backward pass has read it. With gradient checkpointing, this
means until its block is computed, in the forward pass and in the recomputation.

The hooks of diffusers for layerwise casting and group offloading change the data of a parameter after its layer.
Autograd may save the parameter itself, so the backward pass finds data of another precision or on another device. Group
offloading also moves the trained adapters.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.torch_internals import StaysOnCPU, frozen_parameters, replace_apply, tree_leaves


def network_blocks(network: nn.Module) -> list[nn.Module]:
    """List the blocks of a diffusers network.

    The blocks are the elements of the network's module lists. In a U-Net, the middle block is also included.
    """
    lists = (child for child in network.children() if isinstance(child, nn.ModuleList))
    middle = getattr(network, "mid_block", None)
    return [block for each in lists for block in each] + ([] if middle is None else [middle])


def offload_blocks(network: nn.Module) -> None:
    """Keep the frozen weights of a network's blocks on the CPU, even if the network is moved to a different device."""
    for layer in (layer for block in network_blocks(network) for layer in block.modules()):
        if frozen_parameters(layer):
            compute_with_copies(layer)
            replace_apply(layer, StaysOnCPU(layer))


def offloaded_names(network: nn.Module) -> list[str]:
    """Return the names of the parameters that stay on the CPU."""
    layers = [(name, each) for name, each in network.named_modules() if StaysOnCPU.has(each)]
    return [f"{name}.{key}" for name, each in layers for key in frozen_parameters(each)]


def compute_with_copies(layer: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Make a layer compute with copies of its frozen parameters, on the device of its inputs and with a given dtype."""
    if not isinstance(vars(layer).get("copies"), _Copies):
        copies: Any = _Copies(dtype)
        layer.copies = copies
        layer.register_forward_pre_hook(copies.fetch, with_kwargs=True)
        layer.register_forward_hook(copies.put_back, always_call=True)


class _Copies:
    """Hooks of a layer, which replace its frozen parameters during a call."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.kept: dict[str, nn.Parameter] = {}
        self.apply: Any = None

    def fetch(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        device = next(each.device for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
        self.kept = frozen_parameters(layer)
        for name, parameter in self.kept.items():
            copy = parameter.detach().to(device, self.dtype, non_blocking=True)
            setattr(layer, name, nn.Parameter(copy, requires_grad=False))
        # The hook of layerwise casting would change the data of the copies after the call.
        self.apply = replace_apply(layer, lambda change, recurse=True: layer)

    def put_back(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for name, parameter in self.kept.items():
            setattr(layer, name, parameter)
        replace_apply(layer, self.apply)
