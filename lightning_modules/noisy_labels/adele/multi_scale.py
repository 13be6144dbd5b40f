"""Multi-scale logits of an image, and ADELE's two losses of these logits.

Let z_1 ... z_S be the logits of an image at S scales, w = softmax(v) the weights of the scales, and p_k = softmax(z_k).
Let q = sum_k w_k p_k be the mixture, clamped to [0.001, 0.999]. The losses are

    L_CE   = sum_k mean_{b,h,w} CE(w_k z_k, y),
    L_cons = mean_{b,h,w} m_b sum_k KL(p_k || q).

In L_CE, the weight w_k acts as a temperature of 1 / w_k, which is 3 for three equal weights. The mask m_b is 1 for
images with a confident pixel (max q >= rho), and 0 for other images.

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740, and the authors' code.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED
from lightning_modules.full_precision import at_least_float32
from lightning_modules.losses.segmentation import pixel_cross_entropy

LEAST_PROBABILITY = 1e-3


def multi_scale_logits(
    network: Callable[[Tensor], Tensor], image: Tensor, scales: Sequence[float], flip: bool = False
) -> list[Tensor]:
    """Compute the logits of an image at several scales, and resize them to the size of the image.

    Args:
        network: network that maps images `[B, C, h, w]` to logits `[B, K, h', w']`.
        image: `[B, C, H, W]`.
        scales: scale factors of the height and width, each > 0. Scale 1 does not resize the image.
        flip: whether to compute the logits of the horizontally flipped image too, at each scale. These logits are
            flipped back.

    Returns:
        Logits `[B, K, H, W]` for each scale and, with `flip`, for each flipped image. They are resized by bilinear
        interpolation with aligned corners.
    """
    size = image.shape[-2:]
    logits = []
    for scale in scales:
        scaled = image
        if scale != 1:
            scaled = F.interpolate(
                image, scale_factor=scale, mode="bilinear", align_corners=True, recompute_scale_factor=True
            )
        logits.append(_resize(network(scaled), size))
        if flip:
            logits.append(_resize(network(scaled.flip(-1)), size).flip(-1))
    return logits


def _resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=list(size), mode="bilinear", align_corners=True)


def multi_scale_cross_entropy(logits: Sequence[Tensor], label: Tensor, weight: Tensor) -> Tensor:
    """Compute L_CE, the sum, over all scales, of the cross-entropy of the weighted logits.

    Args:
        logits: logits of S scales, each `[B, K, H, W]`.
        label: `[B, H, W]`, int64. Pixels with the label 255 have loss 0, but are included in the mean over pixels.
        weight: weights w of the scales, `[S]`, which sum to 1.

    Returns:
        Loss, a scalar.
    """
    terms = [pixel_cross_entropy(w * at_least_float32(z), label) for z, w in zip(logits, weight, strict=True)]
    return torch.stack(terms).sum()


def mixture(probability: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Compute q, the mixture of S predictions p, `[B, K, H, W]`, with weights w, `[S]`; clamp q to [0.001, 0.999]."""
    mixed = sum((w * p for p, w in zip(probability, weight, strict=True)), torch.zeros_like(probability[0]))
    return mixed.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)


def confident_images(mixed: Tensor, label: Tensor, threshold: float) -> Tensor:
    """Compute the mask m of the images that have a confident pixel, `[B]`.

    The mask is 1 for an image if the largest value of q over its labelled pixels is at least rho, and 0 otherwise.
    """
    known = torch.where(label == IGNORED, 0, mixed.amax(dim=1))
    return (known.amax(dim=(1, 2)) >= threshold).to(mixed.dtype)


def multi_scale_consistency(logits: Sequence[Tensor], label: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """Compute L_cons, the divergence of the predictions at all scales from their mixture.

    Gradients flow through p_k, q and the weights w. Pixels with the label 255 contribute to the loss, but are not
    considered when the mask m is computed.

    Args:
        logits: logits of S scales, each `[B, K, H, W]`.
        label: labels, `[B, H, W]`, int64.
        weight: weights w of the scales, `[S]`, which sum to 1.
        threshold: confidence threshold rho, in [0, 1].

    Returns:
        Loss, a scalar.
    """
    log_p = [at_least_float32(z).log_softmax(dim=1) for z in logits]
    mixed = mixture([each.exp() for each in log_p], weight)
    log_q = mixed.log()
    divergence = torch.stack([F.kl_div(log_q, each, reduction="none", log_target=True).sum(dim=1) for each in log_p])
    return (divergence.sum(dim=0).mean(dim=(1, 2)) * confident_images(mixed, label, threshold)).mean()
