"""Consistency regularisation of a classifier over noisy copies of an image.

Let p_1 ... p_m be the predicted probabilities for m noisy copies of an image, and p their mean. The loss is

    L = mean_j CE(p_j, y) + lambda mean_j KL(p || p_j) + eta H(p).

With m = 1, the loss is only the cross-entropy, as in training with Gaussian noise (Cohen et al., 2019).

Source: Jeong and Shin, Consistency Regularization for Certified Robustness of Smoothed Classifiers, NeurIPS 2020,
arXiv 2006.04062.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.full_precision import at_least_float32
from lightning_modules.robustness.mean_prediction import log_mean


def consistency(logits: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute the divergence among the predictions for copies of an image, and the entropy of the mean prediction.

    Args:
        logits: logits of each copy, `[m, B, K]`.
        floor: lower bound to which all probabilities are clamped, in [0, 1). Clamped values have no gradient.

    Returns:
        The divergence KL(p || p_j), averaged over copies j, and the entropy of the mean prediction p; both `[B]`, in
        nats.
    """
    lowest = math.log(floor) if floor > 0 else -math.inf
    log_p = at_least_float32(logits).log_softmax(dim=-1)
    log_p_mean = log_mean(log_p).clamp(min=lowest)
    mean = log_p_mean.exp()
    divergence = (mean * (log_p_mean - log_p.clamp(min=lowest))).sum(dim=-1).mean(dim=0)
    entropy = -(mean * log_p_mean).sum(dim=-1)
    return divergence, entropy


def loss_on_copies(
    logits: Tensor, label: Tensor, consistency_weight: float, entropy_weight: float, floor: float = 0.0
) -> Tensor:
    """Compute the loss L with consistency regularisation, averaged over the batch.

    Args:
        logits: logits of each copy, `[m, B, K]`. For m = 1, the loss is only the cross-entropy.
        label: labels `[B]`, or probabilities `[B, K]`.
        consistency_weight: weight lambda of the divergence.
        entropy_weight: weight eta of the entropy.
        floor: lower bound of the probabilities in the second and the third term; smaller probabilities are set to it.
    """
    loss = F.cross_entropy(logits.flatten(end_dim=1), label.repeat(len(logits), *[1] * (label.ndim - 1)))
    if len(logits) > 1:
        divergence, entropy = consistency(logits, floor)
        loss = loss + (consistency_weight * divergence + entropy_weight * entropy).mean()
    return loss
