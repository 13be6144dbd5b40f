"""Losses between predicted and given masks: Dice, and pixel-wise cross-entropy with unlabelled pixels.

The losses use probabilities p, masks y, pixel weights w and a small eps; sums run over the pixels of an image:

    weighted         1 - (2 sum w p y + eps) / (sum w (p + y) + eps);       soft Dice with w = 1
    noise-weighted   the weighted loss with w = exp(-gamma |p - y|), without gradient

Sources: soft Dice: Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797, with the overlap's own denominator.
Noise-weighted: named in Wang et al., arXiv 2012.14584, whose formula was not available: the weight is our choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED
from lightning_modules.full_precision import at_least_float32


def _sum(value: Tensor) -> Tensor:
    return value.flatten(start_dim=1).sum(dim=1)


def weighted_dice(p: Tensor, y: Tensor, w: Tensor | float = 1.0, eps: float = 1e-5) -> Tensor:
    """Compute the weighted Dice loss of each image, in [0, 1].

    Args:
        p: `[B, ...]`, probabilities.
        y: `[B, ...]`, masks in [0, 1].
        w: nonnegative pixel weights, of the same shape; 1 gives soft Dice.
        eps: smoothing constant, which gives two empty masks the loss 0.

    Returns:
        `[B]`.
    """
    return 1 - (2 * _sum(w * p * y) + eps) / (_sum(w * (p + y)) + eps)


def disagreement_weight(p: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Compute exp(-gamma |p - y|) without gradient: 1 if p = y, e^-gamma if |p - y| = 1."""
    return torch.exp(-gamma * (p.detach() - y).abs())


def noise_weighted_dice(p: Tensor, y: Tensor, gamma: float = 3.0, eps: float = 1e-5) -> Tensor:
    """Compute the noise-weighted Dice loss of each image, `[B]` in [0, 1]; gamma 0 gives soft Dice."""
    return weighted_dice(p, y, disagreement_weight(p, y, gamma), eps)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Average -log softmax(z)_y over images and pixels, in single precision or better.

    Args:
        logits: z, `[B, K, H, W]`.
        label: y, `[B, H, W]`, int64; pixels labelled 255 add a loss of 0, but count in the mean.

    Returns:
        A scalar.
    """
    return F.cross_entropy(at_least_float32(logits), label, ignore_index=IGNORED, reduction="sum") / label.numel()
