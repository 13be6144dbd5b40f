"""Private names of PyTorch that data, modules and callbacks use for lack of public ones, and why.

They stand here alone, apart from Lightning's, as networks are imported without Lightning.
"""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TorchDispatchMode", "tree_leaves", "tree_map"]  # torch documents them, and has no other place for them

# The classes above all layers of a kind, whatever their number of dimensions.
BatchNorm = nn.modules.batchnorm._BatchNorm
NormWithStatistics = nn.modules.batchnorm._NormBase
AnyDropout = nn.modules.dropout._DropoutNd

# One kernel for many small tensors; optimizers have them, and no public function does the same.
foreach_add_: Any = torch._foreach_add_
foreach_sub_: Any = torch._foreach_sub_
foreach_copy_: Any = torch._foreach_copy_
foreach_norm: Any = torch._foreach_norm
standard_gamma: Any = torch._standard_gamma
"""`torch.distributions.Gamma` takes no generator."""


def times_written(tensor: torch.Tensor) -> int:
    """Count how often a tensor was written to in place, by which autograd knows values that have changed."""
    return tensor._version
