"""Rows of the whole batch, over all processes, through which gradients reach the process that they came from."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.distributed import collectives
from datamodules.distributed.collectives import world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return gather_rows(local, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous()
        dist.all_reduce(summed)
        return summed.split(ctx.counts)[dist.get_rank()], None


def global_rows(local: Tensor, global_batch_size: int) -> Tensor:
    """Gathers what each process has of a batch.

    The gradient of a row is the sum of what all processes' losses have for it. So where process r of W backs up its
    loss L_r and DDP averages, the parameters get the gradient of mean_r L_r.

    Args:
        local: `[b, ...]`: this process's rows.
        global_batch_size: B, rows of all processes, dealt out as `GlobalBatches` does.

    Returns:
        `[B, ...]`, in the order of the processes; `local` itself in a single process.
    """
    if world_size() == 1:
        return local
    return _Gathered.apply(local, share_sizes(global_batch_size))


def partner_rows(local: Tensor, partner: Tensor) -> Tensor:
    """Fetch the rows that stand at other places of a batch from the processes that have them, and no others.

    Args:
        local: `[b, ...]`: this process's rows, without gradient where there are several processes.
        partner: `[B]`, int64, on the host: a permutation of the places in the batch of all processes, the same on all;
            or `[b]`, of the places in `local`.

    Returns:
        `[b, ...]`: for each place of this process the row of its partner.
    """
    if len(partner) == len(local):
        return local[partner.to(local.device, non_blocking=True)]
    assert not local.requires_grad, "rows of other processes have no gradient"
    rank, processes = collectives.rank(), collectives.world_size()
    wanted = partner[rank::processes]
    given = [each[each % processes == rank] // processes for each in (partner[r::processes] for r in range(processes))]
    taken = [int((wanted % processes == process).sum()) for process in range(processes)]
    arrived = local.new_empty(len(wanted), *local.shape[1:])
    sent = local[torch.cat(given).to(local.device, non_blocking=True)]
    dist.all_to_all_single(arrived, sent, taken, list(map(len, given)))
    place = (wanted % processes).argsort(stable=True).argsort()  # what came is in the order of the processes
    return arrived[place.to(local.device, non_blocking=True)]


def global_sum(local: Tensor) -> Tensor:
    """The sum over processes of a tensor of any shape, the same on all, with gradient as in `global_rows`."""
    return local if world_size() == 1 else global_rows(local[None], world_size()).sum(dim=0)
