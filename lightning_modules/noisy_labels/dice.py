"""Dice losses between predicted and given masks.

With probabilities p, masks y and pixel weights w, sums over the pixels of an image and a small eps:

    weighted         1 - (2 sum w p y + eps) / (sum w (p + y) + eps);       soft Dice with w = 1
    noise-weighted   the weighted one with w = exp(-gamma |p - y|), without gradient
    noise-robust     sum |p - y|^a / (sum p^2 + sum y^2 + eps), 1 <= a <= 2

Sources: soft Dice: Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797, with the denominator of the overlap itself.
Noise-weighted: named in Wang et al., arXiv 2012.14584, whose formula could not be read: the weight is our choice.
Noise-robust: Wang et al., A Noise-robust Framework for Automatic Segmentation of COVID-19 Pneumonia Lesions, IEEE TMI
2020.
"""

import torch
from torch import Tensor


def _sum(value: Tensor) -> Tensor:
    return value.flatten(start_dim=1).sum(dim=1)


def weighted_dice(p: Tensor, y: Tensor, w: Tensor | float = 1.0, eps: float = 1e-5) -> Tensor:
    """The weighted Dice loss of each image, in [0, 1].

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
    """exp(-gamma |p - y|), without gradient: 1 where both agree, e^-gamma where they are opposite."""
    return torch.exp(-gamma * (p.detach() - y).abs())


def noise_weighted_dice(p: Tensor, y: Tensor, gamma: float = 3.0, eps: float = 1e-5) -> Tensor:
    """The noise-weighted Dice loss of each image, `[B]` in [0, 1]; with gamma 0 it is soft Dice."""
    return weighted_dice(p, y, disagreement_weight(p, y, gamma), eps)


def noise_robust_dice(p: Tensor, y: Tensor, power: float = 1.5, eps: float = 1e-5) -> Tensor:
    """The noise-robust Dice loss of each image, `[B]`; with power 2 Dice with squares, with 1 near mean absolute
    error."""
    return _sum((p - y).abs() ** power) / (_sum(p**2) + _sum(y**2) + eps)
