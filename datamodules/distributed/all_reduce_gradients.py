"""A gradient that is summed over processes where DDP averages none: by hand, in one message with the value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.distributed.world import all_reduce_sum, world_size


def all_reduce_gradients(value: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Sum a function and its gradient over all processes, each of which has its own share of the samples.

    Args:
        value: this process's part of the function, a number.
        parameters: what it is differentiated by, the same on all processes.

    Returns:
        The function, detached, and its gradient by each of the parameters; both are the same on all processes.
    """
    gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
    return sum_over_processes(value.detach(), list(gradient))


def sum_over_processes(value: Tensor, gradient: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Sum a number and tensors over processes, in one message; without other processes they are given back."""
    if world_size() == 1:
        return value, gradient
    total = all_reduce_sum(torch.cat([value.reshape(1), *(each.flatten() for each in gradient)]))
    parts = total[1:].split([each.numel() for each in gradient])
    return total[0], [part.view_as(each) for part, each in zip(parts, gradient, strict=True)]
