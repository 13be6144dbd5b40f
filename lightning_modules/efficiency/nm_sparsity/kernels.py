"""Conversion of 2:4 sparse weights to the sparse tensor-core format, which stores only half of the weights."""

from typing import Any

import torch
from torch import nn

from lightning_modules.backbones.replacement import LinearOfFunction, layers_of_functions
from lightning_modules.efficiency.nm_sparsity.flow import NMWeight

HALF = (torch.float16, torch.bfloat16)
DEVICE = "cuda"


@torch.no_grad()
def in_semi_structured_kernels(network: nn.Module) -> list[str]:
    """Convert the 2:4 layers of a trained network, in place, to PyTorch's semi-structured format for inference.

    Matrix products with the converted weights are up to twice as fast.

    Args:
        network: network with linear layers that are 2:4 sparse along their inputs; it must be on a GPU and in half
            precision.

    Returns:
        The names of the converted layers.

    Raises:
        ValueError: if no layer is 2:4 sparse, or if the device or the precision of a layer is unsuitable.
    """
    chosen: dict[str, Any] = {}
    for name, layer in layers_of_functions(network).items():
        function = layer.function
        two_of_four = isinstance(function, NMWeight) and (function.n, function.m, function.axis) == (2, 4, 1)
        if two_of_four and isinstance(layer, LinearOfFunction):
            chosen[name] = layer
    if not chosen:
        raise ValueError("semi-structured kernels need linear layers that are 2:4 sparse along their inputs, got none")
    for name, layer in chosen.items():
        weight = layer.weight
        if weight.device.type != DEVICE or weight.dtype not in HALF:
            raise ValueError(
                f"semi-structured kernels need float16 or bfloat16 on a GPU, but {name} is {weight.dtype} on "
                f"{weight.device.type}"
            )
    for name, layer in chosen.items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        sparse = torch.sparse.to_sparse_semi_structured(layer.function.eval()(layer.weight))
        plain.weight, plain.bias = nn.Parameter(sparse, requires_grad=False), layer.bias
        network.set_submodule(name, plain.eval())
    return list(chosen)
