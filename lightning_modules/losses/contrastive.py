"""Contrastive losses over the global batch, and cosine similarities.

NT-Xent, the loss of SimCLR: each view of an image must identify the other view of the same image among all views of the
global batch.

    L = (1/2B) sum_a -log( exp(<h_a, h_b> / tau) / sum_{c != a} exp(<h_a, h_c> / tau) ),    b: the other view of a.

The sums are over the 2B views of a batch, and |h| = 1.

Source: Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML
2020, arXiv 2002.05709, equation 1.

InfoNCE with targets, as in rRCM: each feature must identify its target among all targets of the global batch.

    NCE(f, g) = mean_i [ log sum_j exp(<f_i, g_j> / tau) - <f_i, g_i> / tau ],   |f_i| = |g_j| = 1

Targets have no gradient. Ranks therefore need to exchange only the values of the targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.full_precision import in_full_precision


def nt_xent(
    first: Tensor, second: Tensor, all_first: Tensor, all_second: Tensor, offset: int, temperature: float
) -> Tensor:
    """Compute L for the images on this rank, which are contrasted with all images of the global batch.

    Args:
        first: representation of the first view of each image, `[b, D]`; it need not be normalised.
        second: representation of the second view of each image, `[b, D]`.
        all_first: first views of all images in the global batch, `[B, D]`. The rows of `first` start at row `offset`.
        all_second: second views of all images in the global batch, `[B, D]`, in the same order.
        offset: row of the first image of this rank in the global batch.
        temperature: temperature tau.

    Returns:
        Loss, averaged over the 2b views on this rank.
    """
    similarity = cosine_similarities(torch.cat([first, second]), torch.cat([all_first, all_second])) / temperature
    image = torch.arange(len(first), device=first.device) + offset
    itself = torch.cat([image, image + len(all_first)])
    partner = torch.cat([image + len(all_first), image])
    columns = torch.arange(similarity.shape[1], device=first.device)
    return F.cross_entropy(similarity.masked_fill(itself[:, None] == columns, -torch.inf), partner)


def cosine_similarities(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosine similarities between the rows of two batches.

    Args:
        first: `[b, D]`; the rows need not be normalised.
        second: `[B, D]`; the rows need not be normalised.

    Returns:
        Similarities `[b, B]`, in float32 or a higher precision, even if mixed precision is enabled.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    with in_full_precision(first.device):
        return F.normalize(first.to(dtype), dim=1) @ F.normalize(second.to(dtype), dim=1).T


def contrastive_loss(feature: Tensor, target: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Compute NCE in float32 or a higher precision, even under mixed precision.

    Args:
        feature: features f, `[b, D]`. Features and targets need not be normalised.
        target: targets g of the same samples, `[b, D]`.
        candidates: targets g of all samples in the global batch, `[B, D]`, including `target`.
        temperature: temperature tau.

    Returns:
        Loss, averaged over the b samples.
    """
    dtype = torch.promote_types(feature.dtype, torch.float32)
    with in_full_precision(feature.device):
        f, g, others = (F.normalize(value.to(dtype), dim=1) for value in (feature, target, candidates))
        similarity = f @ others.T / temperature
        return (similarity.logsumexp(dim=1) - (f * g).sum(dim=1) / temperature).mean()
