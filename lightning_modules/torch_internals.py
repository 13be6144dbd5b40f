"""Private names of PyTorch that this project needs because no public name exists, with the reason for each name.

Private names of Lightning are in a separate file, because networks are imported without Lightning.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TorchDispatchMode", "tree_leaves", "tree_map"]  # documented by PyTorch, but not in a public module

# Each of these is the base class of all layers of one kind, for any number of spatial dimensions.
BatchNorm = nn.modules.batchnorm._BatchNorm
NormWithStatistics = nn.modules.batchnorm._NormBase
AnyDropout = nn.modules.dropout._DropoutNd

# These functions process many small tensors in one kernel call, as in PyTorch's optimizers; no public function does so.
foreach_add_: Any = torch._foreach_add_
foreach_sub_: Any = torch._foreach_sub_
foreach_copy_: Any = torch._foreach_copy_
foreach_norm: Any = torch._foreach_norm
standard_gamma: Any = torch._standard_gamma
"""Sampler of the gamma distribution; needed because `torch.distributions.Gamma` does not accept a generator."""


def leave_out_of_ddp(module: nn.Module, names: list[str]) -> None:
    """Exclude parameters from `DistributedDataParallel(module)`, whose public arguments cannot exclude single ones.

    This function sets the same attribute as `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model`.
    """
    module._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def replace_apply(layer: nn.Module, apply: Any) -> Any:
    """Replace a layer's `_apply`, which all public functions call that move or cast a module; return the former value.

    None is the value of the layer's class.
    """
    former = vars(layer).pop("_apply", None)
    if apply is not None:
        layer._apply = apply  # type: ignore[method-assign]
    return former


def frozen_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the frozen parameters of a layer itself."""
    return {name: each for name, each in layer.named_parameters(recurse=False) if not each.requires_grad}


class StaysOnCPU:
    """Replacement for a layer's `_apply` which leaves frozen parameters on the CPU, in pinned memory if possible."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    @classmethod
    def has(cls, layer: nn.Module) -> bool:
        """Return whether the frozen parameters of a layer stay on the CPU."""
        return isinstance(vars(layer).get("_apply"), cls)

    def __call__(self, change: Any, recurse: bool = True) -> nn.Module:
        frozen, apply = frozen_parameters(self.layer), replace_apply(self.layer, None)
        for name in frozen:
            setattr(self.layer, name, None)
        self.layer._apply(change, recurse)
        for name, parameter in frozen.items():
            value = parameter.detach().to(change(parameter.detach().flatten()[:0]).dtype)
            pinned = value.pin_memory() if torch.cuda.is_available() else value
            setattr(self.layer, name, nn.Parameter(pinned, requires_grad=False))
        replace_apply(self.layer, apply)
        return self.layer


def times_written(tensor: torch.Tensor) -> int:
    """Return the version counter of a tensor.

    The counter increases with each in-place change; autograd uses it to detect changed values.
    """
    return tensor._version
