"""Which of the training processes this is, and sums over all of them; right without any process group, too."""

import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def summed(value: Tensor) -> Tensor:
    """Sum a tensor over processes, without gradient; `value` itself stays as it is. Every process calls it."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total
