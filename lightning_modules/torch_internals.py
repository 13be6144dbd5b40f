"""Private PyTorch names that this project needs because no public name exists, each with the reason.

Private names of Lightning are in a separate file, because networks are imported without Lightning.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TorchDispatchMode", "tree_leaves", "tree_map"]  # documented by torch, but without a public module

# Base classes of all layers of a kind, for any number of dimensions.
BatchNorm = nn.modules.batchnorm._BatchNorm
NormWithStatistics = nn.modules.batchnorm._NormBase
AnyDropout = nn.modules.dropout._DropoutNd

# One kernel for many small tensors, used by torch's optimizers; no public function does the same.
foreach_add_: Any = torch._foreach_add_
foreach_sub_: Any = torch._foreach_sub_
foreach_copy_: Any = torch._foreach_copy_
foreach_norm: Any = torch._foreach_norm
standard_gamma: Any = torch._standard_gamma
"""`torch.distributions.Gamma` takes no generator."""


def leave_out_of_ddp(module: nn.Module, names: list[str]) -> None:
    """Keep parameters out of `DistributedDataParallel(module)`; the public arguments can leave out only all of them.

    `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model` sets the same attribute.
    """
    module._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def times_written(tensor: torch.Tensor) -> int:
    """Return the version counter of a tensor.

    It counts in-place changes, and autograd uses it to detect changed values.
    """
    return tensor._version
