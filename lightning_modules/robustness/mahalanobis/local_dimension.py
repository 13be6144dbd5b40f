"""Local intrinsic dimension of features, the growth of the number of neighbours with the distance: a baseline.

    LID(f) = -k / sum_{j=1}^k log(r_j / r_k),

the maximum-likelihood estimate from the distances r_1 <= ... <= r_k of f to its nearest neighbours among a mini-batch
of clean images. The least distance is skipped: for a clean image it is the one to itself, and for its noisy and
adversarial copies the same is done. Adversarial images have the higher dimension. Each k is a score of its own.

Sources: Ma et al., Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality, ICLR 2018, arXiv
1801.02613, equation 4 and algorithm 1; Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888, whose published code has these k and this size of mini-batches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NEIGHBOURS = tuple(range(10, 100, 10))
"""k."""
MINI_BATCH = 100


def local_dimension(features: Tensor, reference: Tensor, neighbours: Sequence[int] = NEIGHBOURS) -> Tensor:
    """Compute LID among one mini-batch, for each k.

    Args:
        features: `[n, d]`.
        reference: `[m, d]`, the clean ones; m at least 3.
        neighbours: k; where there are not as many, all m - 1 are taken.

    Returns:
        `[n, neighbours]` in double precision. 0 where the k-th distance is 0; where all k are alike, for which the
        estimate is infinite, the reciprocal of the rounding error.

    Raises:
        ValueError: if m is less than 3, or a k less than 2.
    """
    if len(reference) < 3 or min(neighbours) < 2:
        raise ValueError(
            f"LID needs 3 reference features and 2 neighbours at least, got {len(reference)} and {min(neighbours)}"
        )
    # Differences, not products: the distance of an image to itself must not be what rounding leaves.
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
    """Compute LID of clean images and their copies, each among the clean images of its own mini-batch.

    Args:
        copies: `[n, d]` each, the features of the same images in the same order; the first are the clean ones, which
            all are measured by.
        neighbours: k.
        mini_batch: images of a mini-batch; what is left at the end joins the last one.

    Returns:
        `[n, neighbours]` of each of `copies`.
    """
    starts = range(mini_batch, len(copies[0]) - mini_batch + 1, mini_batch)
    parts = [part.tensor_split(list(starts)) for part in copies]
    return [
        torch.cat([local_dimension(rows, clean, neighbours) for rows, clean in zip(part, parts[0], strict=True)])
        for part in parts
    ]
