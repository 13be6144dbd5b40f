"""Wasserstein distances between two samples of points."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MOST_POINTS = 1_500
DIRECTIONS = 200


def wasserstein(first: Tensor, second: Tensor) -> float:
    """Compute the exact W1 distance of two samples of equal size: the mean distance under the optimal matching.

    Args:
        first: `[N, D]`, with N at most 1,500.
        second: `[N, D]`.

    Raises:
        ValueError: if the samples differ in size, or are too large for exact matching.
    """
    if len(first) != len(second) or len(first) > MOST_POINTS:
        raise ValueError(
            f"W1 needs samples of equal size, at most {MOST_POINTS} points; got {len(first)} and {len(second)}"
        )
    distances = torch.cdist(first.double().cpu(), second.double().cpu(), compute_mode="donot_use_mm_for_euclid_dist")
    rows, columns = linear_sum_assignment(distances.numpy())
    return float(distances[rows, columns].mean())


def sliced_wasserstein(first: Tensor, second: Tensor, directions: int = DIRECTIONS) -> float:
    """Compute the mean W1 distance of the samples' projections onto random directions.

    In one dimension, W1 is the mean absolute difference of the sorted values.

    Args:
        first: `[N, D]`; N is not limited.
        second: `[N, D]`.
        directions: number of directions, which are sampled uniformly on the sphere and are the same in each call.

    Raises:
        ValueError: if the samples differ in size.

    Source: Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein Barycenters of Measures, JMIV 2015.
    """
    if len(first) != len(second):
        raise ValueError(f"sliced W1 needs samples of equal size; got {len(first)} and {len(second)}")
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(first.shape[1], directions, dtype=torch.float64, generator=generator)
    direction /= direction.norm(dim=0)
    along, other = (sample.double().cpu() @ direction for sample in (first, second))
    return float((along.sort(dim=0).values - other.sort(dim=0).values).abs().mean())
