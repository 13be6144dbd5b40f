"""Parameter groups of a pretrained network with layers that are new: learning rates x 1, 2 (biases), 10 and 20."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def learning_rate_groups(network: nn.Module, new_layers: Sequence[str]) -> list[dict[str, Any]]:
    """Groups for an optimizer, with the key `lr_factor`; `scale_learning_rates` applies it.

    As in the authors' code of ADELE, which is SEAM's: weights, biases (parameters whose names end with `bias`) at twice
    the rate and without weight decay, and both at ten times that in the new layers. Scales and shifts of normalisation
    layers are not trained: they are in no group, and no longer require gradients. All others are in one, where the
    authors' networks have convolutions and linear layers alone.

    Args:
        network: has the parameters; where there are new layers, those of normalisation layers are frozen.
        new_layers: names of submodules that are trained from scratch; without any, all trainable parameters of the
            network are one group.

    Raises:
        ValueError: if the network has no submodule of a name.
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
    """Multiplies the learning rate of each group by its `lr_factor`, where it has one."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
