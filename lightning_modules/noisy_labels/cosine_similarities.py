"""Cosines between the features of two batches, which contrastive losses compare."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.full_precision import in_full_precision


def cosine_similarities(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each row of one batch with each row of another.

    Args:
        first: `[b, D]`; need not be normalised.
        second: `[B, D]`, likewise.

    Returns:
        `[b, B]`, in single precision or better, also where the network computes in half precision.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    with in_full_precision(first.device):
        return F.normalize(first.to(dtype), dim=1) @ F.normalize(second.to(dtype), dim=1).T
