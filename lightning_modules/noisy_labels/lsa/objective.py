"""The losses of PLS and PLS-LSA, over the whole batch of all processes.

With s the network's prediction for an image, g its sharpened guess, t a target (g for noisy images, the given label y
for the others), u its weight, z and h logits and projection of a mixed image, h' the projection of another view, l the
part of the mixture that an image keeps and o(i) its partner:

    g = s^gamma / sum_c s_c^gamma,            L_i(t) = -sum_c t_c log softmax(z_i)_c
    cls = l sum_i u_i L_i(t_i) / sum_i u_i + (1 - l) sum_i u_o(i) L_i(t_o(i)) / sum_i u_o(i)
    pen = sum_c (1/C) log((1/C) / mean_i softmax(z_i)_c)
    S_ij = <h_i, h'_j> / mu of normalised h and h',    H(a, S_i) = -sum_j a_j log softmax(S_i)_j / sum_j a_j
    LSA: con = mean_i [ l H(A_i, S_i) + (1 - l) H(A_o(i), S_i) ],
         A_ij = 1 where t_i and t_j have the same greatest class, 0 elsewhere
    PLS: con = mean_i H(l A_i + (1 - l) A_o(i), S_i),
         A_ij = u_i u_j [l t_i + (1 - l) t_o(i) and l t_j + (1 - l) t_o(j) have the same greatest class]
                + (1 - u_i)(1 - u_j) [i = j]: doubtful images fall back to themselves

Source: Albert et al., ECCV 2024 (LSA) and WACV 2023, arXiv 2210.04578 (PLS), as the authors' codes compute them.
"""

import torch
from torch import Tensor

from lightning_modules.full_precision import at_least_float32
from lightning_modules.losses.contrastive import cosine_similarities


def sharpened(probability: Tensor, gamma: float) -> Tensor:
    """g of predictions `[B, C]`: rows that sum to one."""
    power = probability**gamma
    return power / power.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """L_i(t_i), `[B]`, of logits and targets `[B, C]`, in single precision or better."""
    return -(target * at_least_float32(logits).log_softmax(dim=1)).sum(dim=1)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
    """sum_i u_i L_i(t_i) / sum_i u_i.

    Args:
        logits: `[B, C]`: z.
        target: `[B, C]`: t.
        weight: `[B]`: u, at least 0. Where all are 0 so is the loss.
        total: sum_i u_i over a batch of which these are a part; by default over these.
    """
    total = weight.sum() if total is None else total
    return (weight * soft_cross_entropy(logits, target)).sum() / total.clamp(min=1e-6)


def uniformity_penalty(mean_probability: Tensor) -> Tensor:
    """pen of the mean prediction `[C]`: 0 where it is uniform, otherwise positive."""
    p = mean_probability.clamp(min=torch.finfo(mean_probability.dtype).tiny)
    return -(p * len(p)).log().mean()


def same_class(category: Tensor, other: Tensor) -> Tensor:
    """A of LSA: `[b, B]`, 1 where the classes `[b]` and `[B]` are the same, otherwise 0."""
    return (category[:, None] == other).float()


def confident_same_class(
    category: Tensor, weight: Tensor, index: Tensor, other: Tensor, other_weight: Tensor, other_index: Tensor
) -> Tensor:
    """A of PLS.

    Args:
        category: `[b]`: the greatest class of the mixed target.
        weight: `[b]`: u.
        index: `[b]`: which image it is.
        other: `[B]`: the same of the columns.
        other_weight: `[B]`.
        other_index: `[B]`.

    Returns:
        `[b, B]`, in [0, 1].
    """
    itself = (index[:, None] == other_index).to(weight.dtype)
    same = (category[:, None] == other).to(weight.dtype)
    return weight[:, None] * other_weight * same + (1 - weight)[:, None] * (1 - other_weight) * itself


def contrast(projection: Tensor, other: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """H(A_i, S_i), `[b]`.

    Args:
        projection: `[b, D]`: h; need not be normalised.
        other: `[B, D]`: h', features of the other view; need not be normalised.
        positives: `[b, B]`: A, at least 0, no row of zeros.
        temperature: mu.
    """
    similarity = cosine_similarities(projection, other) / temperature
    return soft_cross_entropy(similarity, positives.to(similarity.dtype)) / positives.sum(dim=1)
