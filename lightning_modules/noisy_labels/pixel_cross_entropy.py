"""Cross-entropy of pixels, some of which have no label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """-mean_{b,h,w} log softmax(z)_y, in at least single precision.

    Args:
        logits: z, `[B, K, H, W]`.
        label: y, `[B, H, W]`, int64; 255 is ignored, and counts in the mean with a loss of 0.

    Returns:
        A number.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(precise, label, ignore_index=IGNORED, reduction="sum") / label.numel()
