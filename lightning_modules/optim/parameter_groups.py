"""Parameter groups with different learning rates: for new layers of a pretrained network, for heads, and for depths.

In layer-wise learning-rate decay, a parameter of block i = 0, 1, ... has depth i + 1. The patch embedding, the position
embedding and the class token have depth 0. All layers after the L blocks have depth L + 1. The learning rate of a
parameter is multiplied by d^{L + 1 - depth}. Vectors and scalars, such as biases and normalisation parameters, have no
weight decay.

Source: Bao, Dong, Piao and Wei, BEiT: BERT Pre-Training of Image Transformers, ICLR 2022, arXiv 2106.08254.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from lightning_modules.torch_internals import NormWithStatistics

NORMALISATION = (NormWithStatistics, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def learning_rate_groups(network: nn.Module, new_layers: Sequence[str]) -> list[dict[str, Any]]:
    """Build parameter groups with the key `lr_factor`, which `scale_learning_rates` applies.

    The groups follow the code of ADELE's authors, which follows SEAM. Biases (parameters whose names end with `bias`)
    have twice the learning rate of weights, and no weight decay. In new layers, the learning rates of both weights and
    biases are ten times as large as elsewhere. Scales and shifts of normalisation layers are frozen, and belong to no
    group. All other trainable parameters belong to a group, whatever the kind of their layer; the authors' networks
    have only convolutions and linear layers.

    Args:
        network: network to train; if `new_layers` is not empty, the network's normalisation layers are frozen.
        new_layers: names of submodules that are trained from scratch; if empty, all trainable parameters form one
            group.

    Raises:
        ValueError: if a name in `new_layers` is not a submodule of the network.
    """
    if not new_layers:
        return [{"params": [p for p in network.parameters() if p.requires_grad]}]
    modules = dict(network.named_modules())
    for name in new_layers:
        if name not in modules:
            raise ValueError(f"new_layers: {type(network).__name__} has no submodule {name!r}")
    new = {module for name in new_layers for module in modules[name].modules()}
    groups: dict[float, dict[str, Any]] = {
        factor: {"params": [], "lr_factor": factor, **more}
        for factor, more in ((1.0, {}), (2.0, {"weight_decay": 0.0}), (10.0, {}), (20.0, {"weight_decay": 0.0}))
    }
    for name, parameter in network.named_parameters():
        module = modules[name.rpartition(".")[0]]
        if isinstance(module, NORMALISATION):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            factor = 2.0 if name.endswith("bias") else 1.0
            groups[factor * (10 if module in new else 1)]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def scale_learning_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the learning rate of each group by the group's `lr_factor`, if it has one."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)


def optimizer_with_heads(
    optimizer: OptimizerCallable, module: nn.Module, heads: Iterable[nn.Module], lr_factor: float
) -> Optimizer:
    """Build an optimizer of a module's trainable parameters, with a different learning rate for the heads.

    Args:
        optimizer: function that builds the optimizer. The optimizer's learning rate applies to all parameters outside
            the heads.
        module: module whose parameters are optimised.
        heads: submodules of `module` with a separate learning rate.
        lr_factor: ratio of the heads' learning rate to that of the other parameters; 1 gives a single parameter group.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if lr_factor == 1:
        return optimizer(parameters)
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    groups = [
        {"params": [parameter for parameter in parameters if id(parameter) not in of_heads]},
        {"params": [parameter for parameter in parameters if id(parameter) in of_heads], "lr_factor": lr_factor},
    ]
    built = optimizer(groups)
    scale_learning_rates(built)
    return built


STEM = ("cls_token", "pos_embed", "patch_embed")


def layer_of(name: str, num_blocks: int) -> int:
    """Return the depth of a parameter's layer: 0 for the stem, i + 1 for `blocks.<i>`, else `num_blocks` + 1."""
    first, *rest = name.split(".")
    if first in STEM:
        return 0
    return int(rest[0]) + 1 if first == "blocks" else num_blocks + 1


def optimizer_with_layer_decay(
    optimizer: OptimizerCallable, encoder: nn.Module, head: nn.Module, decay: float
) -> Optimizer:
    """Build an optimizer of the trainable parameters of encoder and head, with layer-wise learning-rate decay.

    Args:
        optimizer: function that builds the optimizer; its learning rate applies to the head.
        encoder: encoder with its blocks in the attribute `blocks`; without blocks, the encoder is treated as part of
            the head.
        head: layers that follow the encoder.
        decay: d, factor of the learning rate per layer, in (0, 1].
    """
    num_blocks = len(getattr(encoder, "blocks", ()))
    named = [(layer_of(name, num_blocks), parameter) for name, parameter in encoder.named_parameters()]
    named += [(num_blocks + 1, parameter) for parameter in head.parameters()]
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for layer, parameter in named:
        if parameter.requires_grad:
            group = groups.setdefault((layer, parameter.ndim > 1), {"params": []})
            group["params"].append(parameter)
    for (_, decayed), group in groups.items():
        if not decayed:
            group["weight_decay"] = 0.0
    built = optimizer(list(groups.values()))
    for (layer, _), group in zip(groups, built.param_groups, strict=True):
        group["lr"] *= decay ** (num_blocks + 1 - layer)
    return built
