"""Losses between predicted and target masks: Dice losses, and pixel-wise cross-entropy with unlabelled pixels.

Let p be probabilities, y masks, w pixel weights and eps a small constant. The sums are over the pixels of an image:

    weighted         1 - (2 sum w p y + eps) / (sum w (p + y) + eps);       soft Dice with w = 1
    noise-weighted   the weighted loss with w = exp(-gamma |p - y|), without gradient

Sources: soft Dice: Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797, but with the denominator sum (p + y) of the
Dice coefficient. The noise-weighted loss is named in Wang et al., arXiv 2012.14584. Its formula was not available; the
weight is therefore our choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED
from lightning_modules.full_precision import at_least_float32


def _sum(value: Tensor) -> Tensor:
    return value.flatten(start_dim=1).sum(dim=1)


def weighted_dice(p: Tensor, y: Tensor, w: Tensor | float = 1.0, eps: float = 1e-5) -> Tensor:
    """Compute the weighted Dice loss of each image.

    Args:
        p: probabilities, `[B, ...]`.
        y: masks in [0, 1], `[B, ...]`.
        w: non-negative pixel weights, `[B, ...]`; 1 gives the soft Dice loss.
        eps: smoothing constant, which makes the loss 0 if both masks are empty.

    Returns:
        Losses `[B]`, in [0, 1].
    """
    return 1 - (2 * _sum(w * p * y) + eps) / (_sum(w * (p + y)) + eps)


def disagreement_weight(p: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Compute the weight exp(-gamma |p - y|) without gradient. It is 1 if p = y, and e^-gamma if |p - y| = 1."""
    return torch.exp(-gamma * (p.detach() - y).abs())


def noise_weighted_dice(p: Tensor, y: Tensor, gamma: float = 3.0, eps: float = 1e-5) -> Tensor:
    """Compute the noise-weighted Dice loss of each image, `[B]`, in [0, 1]; gamma 0 gives the soft Dice loss."""
    return weighted_dice(p, y, disagreement_weight(p, y, gamma), eps)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Compute the mean of -log softmax(z)_y over images and pixels, in float32 or a higher precision.

    Args:
        logits: logits z, `[B, K, H, W]`.
        label: labels y, `[B, H, W]`, int64. Pixels with the label 255 have the loss 0, and are included in the mean.

    Returns:
        Loss, a scalar.
    """
    return F.cross_entropy(at_least_float32(logits), label, ignore_index=IGNORED, reduction="sum") / label.numel()
