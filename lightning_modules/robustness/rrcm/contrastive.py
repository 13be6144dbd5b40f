"""The contrastive loss of rRCM: each feature must find its own target among those of the global batch.

    NCE(f, g) = mean_i [ log sum_j exp(<f_i, g_j> / tau) - <f_i, g_i> / tau ],   |f_i| = |g_j| = 1

Targets have no gradient, so processes exchange their values alone.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.full_precision import in_full_precision
from lightning_modules.per_sample import gather_rows


def over_all_processes(target: Tensor, global_size: int) -> Tensor:
    """Targets of the global batch, whose shares may differ by one sample.

    Args:
        target: `[b, D]`: of this process's share, without gradient.
        global_size: samples of the batch over all processes, dealt out as `GlobalBatches` does.

    Returns:
        `[global_size, D]`, in the order of the processes, on which the loss does not depend.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return target
    world_size = dist.get_world_size()
    return gather_rows(target, [len(range(process, global_size, world_size)) for process in range(world_size)])


def contrastive_loss(feature: Tensor, target: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """NCE, in single precision or better, also where the networks compute in half precision.

    Args:
        feature: `[b, D]`: f; need not be normalised, nor the others.
        target: `[b, D]`: g of the same samples.
        candidates: `[B, D]`: g of all samples, those in `target` among them.
        temperature: tau.

    Returns:
        The mean over `[b]`.
    """
    dtype = torch.promote_types(feature.dtype, torch.float32)
    with in_full_precision(feature.device):
        f, g, others = (F.normalize(value.to(dtype), dim=1) for value in (feature, target, candidates))
        similarity = f @ others.T / temperature
        return (similarity.logsumexp(dim=1) - (f * g).sum(dim=1) / temperature).mean()
