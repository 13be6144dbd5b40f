"""Baseline of the Mahalanobis detector: local intrinsic dimension (LID) of features.

    LID(f) = -k / sum_{j=1}^k log(r_j / r_k)

LID measures how fast the number of neighbours grows with the distance. The formula above is the maximum-likelihood
estimate, where r_1 <= ... <= r_k are the distances from f to its k nearest neighbours in a mini-batch of clean images.
The very smallest distance is skipped, because for a clean image it is the distance to itself. For noisy and adversarial
copies, the smallest distance is skipped, too. Adversarial images have a higher LID than clean images. Each k gives a
separate score.

Sources: Ma et al., Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality, ICLR 2018, arXiv
1801.02613, equation 4 and algorithm 1; Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888, whose published code uses the same values of k and the same
mini-batch size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NEIGHBOURS = tuple(range(10, 100, 10))
"""Values of k, the number of neighbours."""
MINI_BATCH = 100


def local_dimension(features: Tensor, reference: Tensor, neighbours: Sequence[int] = NEIGHBOURS) -> Tensor:
    """Compute the local intrinsic dimensionality (LID) within one mini-batch, for each number k of neighbours.

    Args:
        features: features `[n, d]`.
        reference: features of the clean images of the mini-batch, `[m, d]`, with m at least 3.
        neighbours: numbers k of neighbours, capped at m - 1.

    Returns:
        LID `[n, neighbours]`, float64. If the k-th distance is 0, the LID is 0. If all k distances are equal, the LID
        is the reciprocal of the machine epsilon instead of infinity.

    Raises:
        ValueError: if m is less than 3, or any k is less than 2.
    """
    if len(reference) < 3 or min(neighbours) < 2:
        raise ValueError(
            f"LID needs at least 3 reference features and 2 neighbours, got {len(reference)} and {min(neighbours)}"
        )
    # Distances are computed without matrix products, whose rounding errors would make the distance of an image to
    # itself non-zero.
    distance = torch.cdist(features.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    r = distance.sort(dim=1).values[:, 1:]
    smallest = torch.finfo(r.dtype).tiny
    log_r = r.clamp(min=smallest).log()
    k = torch.tensor(neighbours, device=r.device).clamp(max=r.shape[1])
    mean = log_r.cumsum(dim=1)[:, k - 1] / k - log_r[:, k - 1]
    dimension = 1 / (-mean).clamp(min=torch.finfo(r.dtype).eps)
    return torch.where(r[:, k - 1] > 0, dimension, 0.0)


def in_mini_batches(
    copies: Sequence[Tensor], neighbours: Sequence[int] = NEIGHBOURS, mini_batch: int = MINI_BATCH
) -> list[Tensor]:
    """Compute the LID of clean images and of their altered copies, in mini-batches.

    The neighbours of an image or copy are the clean images of the same mini-batch.

    Args:
        copies: one tensor of features `[n, d]` for each kind of copy; all tensors belong to the same images in the same
            order. The first tensor belongs to the clean images, which are the reference for all kinds.
        neighbours: numbers k of neighbours.
        mini_batch: number of images per mini-batch. The last mini-batch also includes the images that do not fill a
            mini-batch.

    Returns:
        LID `[n, neighbours]` for each tensor in `copies`.
    """
    starts = range(mini_batch, len(copies[0]) - mini_batch + 1, mini_batch)
    parts = [part.tensor_split(list(starts)) for part in copies]
    return [
        torch.cat([local_dimension(rows, clean, neighbours) for rows, clean in zip(part, parts[0], strict=True)])
        for part in parts
    ]
