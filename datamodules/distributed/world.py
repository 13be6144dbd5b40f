"""The processes that train together: this one's number, sums and messages, and the seed that they share.

Without a process group there is one process.
"""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Message = TypeVar("Message")


def is_distributed() -> bool:
    """Tell whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Count the processes."""
    return dist.get_world_size() if is_distributed() else 1


def run_seed() -> int:
    """Read the seed of the run, where `seed_everything` leaves it; 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def block(count: int, rank: int, world_size: int) -> range:
    """Give the positions in a rank's contiguous shard of `count` items, with shards as even as possible."""
    share, rest = divmod(count, world_size)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum a tensor over processes, without gradient; `value` itself stays as it is. Every process calls it."""
    total = value.detach().clone(memory_format=torch.contiguous_format)  # NCCL refuses a transposed one
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def broadcast(message: Message) -> Message:
    """Give every process the message of process 0, any object that can be pickled. Every process calls it."""
    if world_size() == 1:
        return message
    messages: list[Any] = [message]
    dist.broadcast_object_list(messages, src=0)
    return messages[0]


def all_gather(message: Message) -> list[Message]:
    """Give every process the messages of all, in the order of their ranks. Every process calls it."""
    if world_size() == 1:
        return [message]
    messages: list[Any] = [None] * world_size()
    dist.all_gather_object(messages, message)
    return messages
