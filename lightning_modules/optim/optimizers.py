"""Default optimizers and schedules, and what `configure_optimizers` returns.

The defaults are functions: where the default is a class, the command line gives the default's arguments to whatever
class a configuration names instead, so that an Adam would be given the weight decay of AdamW. And PyTorch's
`ConstantLR` is not constant by default: it begins with a third of the learning rate.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
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


def trainable_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """List the parameters of modules that require gradients, in their order."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


@contextmanager
def temporarily_frozen(*modules: nn.Module) -> Iterator[None]:
    """Take gradients through modules towards their inputs alone, not towards their parameters, within a `with`."""
    parameters = trainable_parameters(*modules)
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def optimizer_config(optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable, parameters: Iterable[Any]) -> Any:
    """Build an optimizer and its learning-rate schedule, as `configure_optimizers` returns them.

    Args:
        optimizer: is given the parameters.
        lr_scheduler: is given the optimizer. It steps every epoch, or every step where it has `interval = "step"`; one
            that waits for a plateau looks at the metric that is its `monitor`.
        parameters: parameters or parameter groups.
    """
    return scheduled(optimizer(parameters), lr_scheduler)


def scheduled(optimizer: Optimizer, lr_scheduler: LRSchedulerCallable) -> Any:
    """Give an optimizer its learning-rate schedule, as `configure_optimizers` returns them. See `optimizer_config`."""
    scheduler = lr_scheduler(optimizer)
    interval = getattr(scheduler, "interval", "epoch")
    watched = {"monitor": scheduler.monitor} if hasattr(scheduler, "monitor") else {}
    return [optimizer], [{"scheduler": scheduler, "interval": interval, **watched}]
