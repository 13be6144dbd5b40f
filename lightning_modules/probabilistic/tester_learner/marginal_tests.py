"""Tests of points against the standard normal law, all over space and in bands around a hyperplane.

From a unit vector w, with z the coordinates of x in an orthonormal basis of what is orthogonal to it, and the bands
|<w, x>| <= sigma / c for c = 6 and 2, these numbers are 0 for N(0, I) and infinitely many points:

    T1    ||(1/n) X^T X - I||
    T2    |share of points in the band / (2 Phi(sigma / c) - 1) - 1|
    T3    ||E[z z^T | band] - I||, and of degree 4 ||E[(z z^T) (z z^T)^T | band] - that of N(0, I)||, z z^T as a vector

with operator norms, which bound E <v, z>^2 - 1 and E <v, z>^4 - 3 for all unit v at once. They depend on w up to its
sign, and not on labels.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of

BANDS = (6.0, 2.0)
MOST_DIMENSIONS = 40
"""Beyond it the moments of degree 4, d^4 / 4 numbers, are too many."""
CAPS = {"covariance": 0.25, "mass": 0.25, "degree_2": 0.3, "degree_4": 3.0}
"""Greatest thresholds: what is larger says too little of the angle, however few the points are."""
ROWS_AT_ONCE = 2**14
"""Points whose moments of degree 4 are taken at a time."""


class Moments(NamedTuple):
    """Sums over points, which add up over processes."""

    samples: Tensor
    """Points, a number."""
    outer: Tensor
    """x x^T, `[d, d]`."""
    band_count: Tensor
    """Points in each band, `[2]`."""
    band_outer: Tensor
    """z z^T in each band, `[2, d - 1, d - 1]`."""
    band_fourth: Tensor
    """q q^T in each band for the `pairs` q of z, `[2, P, P]`; of degree 2 `[2, 0, 0]`."""


def names(degree: int) -> list[str]:
    """Name the numbers that `statistics` gives."""
    in_band = ("mass", "degree_2", *(["degree_4"] if degree == 4 else []))
    return ["covariance", *(f"{name}_band_{c:g}" for name in in_band for c in BANDS)]


def caps(degree: int) -> Tensor:
    """Give the greatest thresholds of what `names` names."""
    return torch.tensor([CAPS[name.split("_band")[0]] for name in names(degree)], dtype=torch.float64)


def complement(weight: Tensor) -> Tensor:
    """Give an orthonormal basis of what is orthogonal to a vector `[d]`, `[d, d - 1]`."""
    return torch.linalg.qr(weight[:, None], mode="complete").Q[:, 1:]


def pairs(z: Tensor) -> Tensor:
    """Give z z^T as vectors of the space of symmetric matrices, `[N, p (p + 1) / 2]` of `[N, p]`, in its own norm."""
    row, column = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    return z[:, row] * z[:, column] * (1 + (row != column).to(z)).sqrt()


def moments(features: Tensor, weight: Tensor, sigma: float, degree: int) -> Moments:
    """Sum up what the tests need.

    Args:
        features: x, `[N, d]`.
        weight: w, `[d]`, of norm 1.
        sigma: width of the bands.
        degree: 2 or 4.
    """
    dim = len(weight)
    distance, z = (features @ weight).abs(), features @ complement(weight)
    inside = [z[distance <= sigma / c] for c in BANDS]
    size = dim * (dim - 1) // 2 if degree == 4 else 0
    fourth = features.new_zeros(len(BANDS), size, size)
    if degree == 4:
        for total, own in zip(fourth, inside, strict=True):
            for part in map(pairs, own.split(ROWS_AT_ONCE)):
                total += part.T @ part
    return Moments(
        features.new_tensor(len(features)),
        features.T @ features,
        features.new_tensor([len(own) for own in inside]),
        torch.stack([own.T @ own for own in inside]),
        fourth,
    )


def _norms(symmetric: Tensor) -> Tensor:
    """Give the operator norms of symmetric matrices `[K, p, p]`, `[K]`."""
    return torch.linalg.eigvalsh(symmetric).abs().amax(1)


def statistics(found: Moments, sigma: float, degree: int) -> Tensor:
    """Compute the numbers of T1 to T3, in the order of `names`; T3 is infinite in a band with fewer than d^2 points.

    Args:
        found: sums over all points.
        sigma: width of the bands.
        degree: 2 or 4.
    """
    dim = len(found.outer)
    identity = torch.eye(dim, dtype=found.outer.dtype, device=found.outer.device)
    expected = found.outer.new_tensor([math.erf(sigma / c / math.sqrt(2)) for c in BANDS])
    count = found.band_count.clamp(min=1)[:, None, None]
    mass = (found.band_count / found.samples / expected - 1).abs()
    in_band = [_norms(found.band_outer / count - identity[1:, 1:])]
    if degree == 4:
        unit = pairs(torch.eye(dim - 1, dtype=found.outer.dtype, device=found.outer.device)).sum(0)  # I as a vector
        normal = torch.outer(unit, unit) + 2 * torch.eye(len(unit)).to(unit)
        in_band.append(_norms(found.band_fourth / count - normal))
    enough = found.band_count >= dim**2
    moments_in_band = torch.stack(in_band).where(enough, math.inf)
    return torch.cat([_norms((found.outer / found.samples - identity)[None]), mass, moments_in_band.flatten()])


@cache
def simulated(samples: int, dim: int, sigma: float, degree: int, draws: int) -> Tensor:
    """Draw the statistics of standard normal points, `[draws, K]`: the same for the same arguments, on the host.

    Args:
        samples: points of a draw.
        dim: d.
        sigma: width of the bands.
        degree: 2 or 4.
        draws: how many.
    """
    generator = generator_of(samples, dim, degree)
    axis = torch.eye(dim, dtype=torch.float64)[0]
    rows = []
    for _ in range(draws):
        points = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
        rows.append(statistics(moments(points, axis, sigma, degree), sigma, degree))
    return torch.stack(rows)


def joint_thresholds(drawn: Tensor, delta: float) -> Tensor:
    """Give thresholds, `[K]`, within which 1 - delta of the draws are in all statistics at once.

    All are the same quantile, each of its own statistic: the least one for which that holds.

    Args:
        drawn: statistics, `[draws, K]`.
        delta: share of the draws that are beyond a threshold, in (0, 1).
    """
    worst = drawn.argsort(0).argsort(0).amax(1).sort().values
    level = worst[math.ceil((1 - delta) * len(drawn)) - 1]
    return drawn.sort(0).values[level]
