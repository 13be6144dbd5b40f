"""Cosines between the features of two batches, which contrastive losses compare."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarities(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each row of one batch with each row of another.

    Args:
        first: `[b, D]`; need not be normalised.
        second: `[B, D]`, likewise.

    Returns:
        `[b, B]`, in single precision or better, also where the network computes in half precision.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    device = first.device.type
    whole = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with whole:
        return F.normalize(first.to(dtype), dim=1) @ F.normalize(second.to(dtype), dim=1).T
