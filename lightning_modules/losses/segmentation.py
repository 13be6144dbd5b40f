"""Losses between predicted and given masks: Dice, and the cross-entropy of pixels, some of which have no label.

With probabilities p, masks y and pixel weights w, sums over the pixels of an image and a small eps:

    weighted         1 - (2 sum w p y + eps) / (sum w (p + y) + eps);       soft Dice with w = 1
    noise-weighted   the weighted one with w = exp(-gamma |p - y|), without gradient

Sources: soft Dice: Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797, with the denominator of the overlap itself.
Noise-weighted: named in Wang et al., arXiv 2012.14584, whose formula could not be read: the weight is our choice.
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
        w: weights of the pixels, of the same shape and not negative; 1 gives soft Dice.
        eps: makes two empty masks agree.

    Returns:
        `[B]`.
    """
    return 1 - (2 * _sum(w * p * y) + eps) / (_sum(w * (p + y)) + eps)


def disagreement_weight(p: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Compute exp(-gamma |p - y|) without gradient: 1 where both agree, e^-gamma where they are opposite."""
    return torch.exp(-gamma * (p.detach() - y).abs())


def noise_weighted_dice(p: Tensor, y: Tensor, gamma: float = 3.0, eps: float = 1e-5) -> Tensor:
    """Compute the noise-weighted Dice loss of each image, `[B]` in [0, 1]; with gamma 0 it is soft Dice."""
    return weighted_dice(p, y, disagreement_weight(p, y, gamma), eps)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Average -log softmax(z)_y over images and pixels, in at least single precision.

    Args:
        logits: z, `[B, K, H, W]`.
        label: y, `[B, H, W]`, int64; 255 is ignored, and counts in the mean with a loss of 0.

    Returns:
        A number.
    """
    return F.cross_entropy(at_least_float32(logits), label, ignore_index=IGNORED, reduction="sum") / label.numel()
