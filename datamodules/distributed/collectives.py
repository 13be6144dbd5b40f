"""Collective operations over the ranks of a run, and the seed that the ranks share.

Without a process group, all functions assume that there is one rank.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Message = TypeVar("Message")


def is_distributed() -> bool:
    """Return whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if is_distributed() else 1


def run_seed() -> int:
    """Return the seed that `seed_everything` stored, or 0 if it stored none."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def block(count: int, rank: int, world_size: int) -> range:
    """Return the positions of the items in this rank's shard.

    The shards are contiguous and have nearly the same size on all ranks.
    """
    share, rest = divmod(count, world_size)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of a tensor over ranks, as a new tensor without a gradient.

    All ranks must call this function.
    """
    total = value.detach().clone(memory_format=torch.contiguous_format)  # NCCL rejects transposed tensors
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def broadcast(message: Message) -> Message:
    """Broadcast a message from rank 0; the message may be any picklable object.

    All ranks must call this function.
    """
    if world_size() == 1:
        return message
    messages: list[Any] = [message]
    dist.broadcast_object_list(messages, src=0)
    return messages[0]


def all_gather(message: Message) -> list[Message]:
    """Gather one message from each rank, in the order of the ranks.

    All ranks must call this function.
    """
    if world_size() == 1:
        return [message]
    messages: list[Any] = [None] * world_size()
    dist.all_gather_object(messages, message)
    return messages


def broadcast_buffers(network: nn.Module) -> None:
    """Copy the floating-point buffers of rank 0 to all ranks, in place.

    All ranks must call this function.

    DDP keeps parameters equal on all ranks. However, each rank updates buffers, such as the running mean and variance
    of BatchNorm, from its own shard of a batch. DDP broadcasts the buffers of rank 0 only in the next forward pass.
    Checkpoints contain only the buffers of rank 0. Call this function after a training step, before scoring images with
    the network that DDP wraps. Lightning's validation within `fit` uses DDP and does not need this call.
    """
    if world_size() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.broadcast(buffer, src=0)


def all_reduce_gradients(value: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Sum a function's value and gradient over the samples of all ranks, in one all-reduce.

    Args:
        value: this rank's part of the function's value, a scalar.
        parameters: tensors with respect to which the function is differentiated. They are the same on all ranks.

    Returns:
        The detached value of the function, and its gradient with respect to each parameter. Value and gradient are the
        same on all ranks.
    """
    gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
    return sum_over_processes(value.detach(), list(gradient))


def sum_over_processes(value: Tensor, gradient: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Sum a scalar and tensors over ranks in one all-reduce.

    With a single rank, the arguments are returned unchanged.
    """
    if world_size() == 1:
        return value, gradient
    total = all_reduce_sum(torch.cat([value.reshape(1), *(each.flatten() for each in gradient)]))
    parts = total[1:].split([each.numel() for each in gradient])
    return total[0], [part.view_as(each) for part, each in zip(parts, gradient, strict=True)]
