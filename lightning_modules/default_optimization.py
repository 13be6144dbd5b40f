"""What optimizes a module whose configuration names nothing else.

They are functions: where the default is a class, the command line gives the default's arguments to whatever class a
configuration names instead, so that an Adam would be given the weight decay of AdamW. And PyTorch's `ConstantLR` is not
constant by default: it begins with a third of the learning rate.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR


def sgd(parameters: Iterable[Any]) -> Optimizer:
    """SGD as PyTorch sets it: a learning rate of 0.001, without momentum and weight decay."""
    return torch.optim.SGD(parameters)


def adam(parameters: Iterable[Any]) -> Optimizer:
    """Adam as PyTorch sets it: a learning rate of 0.001, without weight decay."""
    return torch.optim.Adam(parameters)


def adamw(parameters: Iterable[Any]) -> Optimizer:
    """AdamW as PyTorch sets it: a learning rate of 0.001 and a weight decay of 0.01."""
    return torch.optim.AdamW(parameters)


def constant(optimizer: Optimizer) -> ConstantLR:
    """The optimizer's learning rate, all the time."""
    return ConstantLR(optimizer, factor=1.0)
