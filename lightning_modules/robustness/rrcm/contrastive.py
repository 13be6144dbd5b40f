"""The contrastive loss of rRCM: each feature must find its own target among those of the global batch.

    NCE(f, g) = mean_i [ log sum_j exp(<f_i, g_j> / tau) - <f_i, g_i> / tau ],   |f_i| = |g_j| = 1

Targets have no gradient, so processes exchange their values alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.full_precision import in_full_precision


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
