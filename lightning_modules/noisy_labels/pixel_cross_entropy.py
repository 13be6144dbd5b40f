"""Cross-entropy of pixels, some of which have no label."""

import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED
from lightning_modules.full_precision import at_least_float32


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """-mean_{b,h,w} log softmax(z)_y, in at least single precision.

    Args:
        logits: z, `[B, K, H, W]`.
        label: y, `[B, H, W]`, int64; 255 is ignored, and counts in the mean with a loss of 0.

    Returns:
        A number.
    """
    return F.cross_entropy(at_least_float32(logits), label, ignore_index=IGNORED, reduction="sum") / label.numel()
