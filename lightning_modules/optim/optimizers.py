"""Default optimizers and learning-rate schedules, and helpers for `configure_optimizers`.

The defaults are functions, not classes. If a default were a class and a configuration replaced it with another class,
the command line would pass the default's arguments to the new class: for example, Adam would receive the weight decay
of AdamW. The function `constant` is needed because PyTorch's `ConstantLR` starts at a third of the learning rate by
default.
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
    """Build SGD with PyTorch's defaults: learning rate 0.001, no momentum, no weight decay."""
    return torch.optim.SGD(parameters)


def adam(parameters: Iterable[Any]) -> Optimizer:
    """Build Adam with PyTorch's defaults: learning rate 0.001, no weight decay."""
    return torch.optim.Adam(parameters)


def adamw(parameters: Iterable[Any]) -> Optimizer:
    """Build AdamW with PyTorch's defaults: learning rate 0.001, weight decay 0.01."""
    return torch.optim.AdamW(parameters)


def constant(optimizer: Optimizer) -> ConstantLR:
    """Build a schedule with a constant learning rate."""
    return ConstantLR(optimizer, factor=1.0)


def trainable_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """List the parameters of `modules` that require gradients, in order."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


@contextmanager
def temporarily_frozen(*modules: nn.Module) -> Iterator[None]:
    """Context manager that freezes the parameters of the given modules.

    Gradients still flow to the inputs of these modules.
    """
    parameters = trainable_parameters(*modules)
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def optimizer_config(optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable, parameters: Iterable[Any]) -> Any:
    """Build an optimizer and its learning-rate schedule in the format that `configure_optimizers` returns.

    Args:
        optimizer: function that builds the optimizer from the parameters.
        lr_scheduler: function that builds the schedule from the optimizer. The scheduler steps after every epoch, or
            after every optimizer step if it has `interval = "step"`. A plateau scheduler monitors the metric given by
            its attribute `monitor`.
        parameters: trainable parameters, or parameter groups.
    """
    return with_schedule(optimizer(parameters), lr_scheduler)


def with_schedule(optimizer: Optimizer, lr_scheduler: LRSchedulerCallable) -> Any:
    """Attach a learning-rate schedule to an optimizer for `configure_optimizers`; see `optimizer_config`.

    After each step of an optimizer with `train()` and `eval()`, such as those of the package schedulefree, the weights
    are those of `eval()`, which validation, checkpoints and results use. `MethodModule` calls `train()` before a batch.
    """
    if hasattr(optimizer, "eval"):
        optimizer.register_step_post_hook(lambda stepped, *_: stepped.eval())
    scheduler = lr_scheduler(optimizer)
    interval = getattr(scheduler, "interval", "epoch")
    watched = {"monitor": scheduler.monitor} if hasattr(scheduler, "monitor") else {}
    return [optimizer], [{"scheduler": scheduler, "interval": interval, **watched}]
