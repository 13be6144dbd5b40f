"""Gather the rows of the global batch from all ranks; the gradient of a row is sent back to the rank of the row."""

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
    """Gather the rows of a batch from all ranks.

    In the backward pass, a row receives the sum of its gradients from the losses of all ranks. If each rank r
    backpropagates its loss L_r, and DDP averages the gradients over ranks, the parameters therefore receive the
    gradient of mean_r L_r.

    Args:
        local: this rank's rows `[b, ...]`.
        global_batch_size: B, total number of rows on all ranks; the rows must be sharded as in `GlobalBatches`.

    Returns:
        The rows of all ranks, `[B, ...]`, ordered by rank. With a single process, `local` itself is returned.
    """
    if world_size() == 1:
        return local
    return _Gathered.apply(local, share_sizes(global_batch_size))


def partner_rows(local: Tensor, partner: Tensor) -> Tensor:
    """Fetch each row's partner from the rank that stores it, without gathering all rows.

    Args:
        local: this rank's rows `[b, ...]`, which must not require a gradient if there are several ranks.
        partner: position of each row's partner, int64, on the CPU. There are two options: a permutation `[B]` of the
            positions in the global batch, which must be the same on all ranks, or a permutation `[b]` of the positions
            in `local`.

    Returns:
        The partner of each row of `local`, `[b, ...]`.
    """
    if len(partner) == len(local):
        return local[partner.to(local.device, non_blocking=True)]
    assert not local.requires_grad, "rows of other ranks have no gradient"
    rank, processes = collectives.rank(), collectives.world_size()
    wanted = partner[rank::processes]
    given = [each[each % processes == rank] // processes for each in (partner[r::processes] for r in range(processes))]
    taken = [int((wanted % processes == process).sum()) for process in range(processes)]
    arrived = local.new_empty(len(wanted), *local.shape[1:])
    sent = local[torch.cat(given).to(local.device, non_blocking=True)]
    dist.all_to_all_single(arrived, sent, taken, list(map(len, given)))
    place = (wanted % processes).argsort(stable=True).argsort()  # received rows are ordered by rank
    return arrived[place.to(local.device, non_blocking=True)]


def global_sum(local: Tensor) -> Tensor:
    """Sum a tensor of any shape over ranks; the backward pass is that of `global_rows`."""
    return local if world_size() == 1 else global_rows(local[None], world_size()).sum(dim=0)
