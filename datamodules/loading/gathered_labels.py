"""Gather corrected labels from all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.distributed.collectives import world_size


def gathered_labels(index: Tensor, label: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gather the corrected labels of all ranks.

    All ranks must call this function.

    Each rank may contribute a different number of labels.

    Args:
        index: positions of the samples, `[n]`, int64.
        label: corrected labels: classes `[n]` or masks `[n, H, W]`. The dtype must be the same on all ranks. The size
            of masks may differ between ranks.
        device: device of the tensors in the collective operation.

    Returns:
        The positions and labels of all ranks, on the CPU. Smaller masks are padded with 255 at the bottom and at the
        right.
    """
    if world_size() == 1:
        return index.cpu(), label.cpu()
    shape = torch.tensor(label.shape, device=device)
    shapes = [torch.empty_like(shape) for _ in range(world_size())]
    dist.all_gather(shapes, shape)
    largest = torch.stack(shapes).amax(dim=0).tolist()
    padded = torch.full(largest, 255, dtype=label.dtype, device=device)
    padded[tuple(slice(extent) for extent in label.shape)] = label.to(device)
    padded_index = torch.zeros(largest[0], dtype=torch.int64, device=device)
    padded_index[: len(index)] = index.to(device)
    labels, indices = [torch.empty_like(padded) for _ in shapes], [torch.empty_like(padded_index) for _ in shapes]
    dist.all_gather(labels, padded)
    dist.all_gather(indices, padded_index)
    counts = [int(other[0]) for other in shapes]
    return (
        torch.cat([rows[:count].cpu() for rows, count in zip(indices, counts, strict=True)]),
        torch.cat([rows[:count].cpu() for rows, count in zip(labels, counts, strict=True)]),
    )
