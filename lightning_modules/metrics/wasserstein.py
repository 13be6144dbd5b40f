"""Wasserstein distances of two samples of points."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MOST_POINTS = 1_500


def wasserstein(first: Tensor, second: Tensor) -> float:
    """Compute W1 of two equally large samples exactly: the mean distance of points that are matched best.

    Args:
        first: `[N, D]`, N up to 1,500.
        second: `[N, D]`.

    Raises:
        ValueError: if the samples differ in size, or are larger than can be matched.
    """
    if len(first) != len(second) or len(first) > MOST_POINTS:
        raise ValueError(f"W1 matches equally many points, up to {MOST_POINTS}; got {len(first)} and {len(second)}")
    distances = torch.cdist(first.double().cpu(), second.double().cpu(), compute_mode="donot_use_mm_for_euclid_dist")
    rows, columns = linear_sum_assignment(distances.numpy())
    return float(distances[rows, columns].mean())
