"""Statistical tests of whether points come from a target distribution, globally and in bands around a hyperplane.

The target is either the standard normal distribution or a normal distribution restricted to a ball, which is strongly
log-concave.

Let w be a unit vector. Let z be the coordinates of x in an orthonormal basis of the orthogonal complement of w. There
are two bands, |<w, x>| <= sigma / c with c = 6 and c = 2. For points from N(0, I), the following statistics tend to 0
as the number of points grows:

    T1    ||(1/n) X^T X - I||
    T2    |fraction of points in the band / (2 Phi(sigma / c) - 1) - 1|
    T3    ||E[z z^T | band] - I||, and for degree 4 ||E[q q^T | band] - E_N(0, I) [q q^T]|| with q = z z^T as a vector

If the target is N(0, I) in a ball, the mass of a band and the expected moments of degree 2 and 4 in a band have other
values (see `Reference`). The statistics are then computed relative to these other values. The norms are operator norms.
For N(0, I), the norms bound E <v, z>^2 - 1 and E <v, z>^4 - 3 simultaneously for all unit vectors v. The statistics do
not depend on the labels, and are the same for w and -w.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from datamodules.tables.halfspaces import ball_std

BANDS = (6.0, 2.0)
MOST_DIMENSIONS = 40
"""Maximum dimension d for moments of degree 4, which have d^4 / 4 entries."""
CAPS = {"covariance": 0.25, "mass": 0.25, "degree_2": 0.3, "degree_4": 3.0}
"""Upper limit of each test's threshold, however few points there are; above it, a test would hardly bound the angle."""
ROWS_AT_ONCE = 2**14
"""Number of points for which moments of degree 4 are computed at once."""


class Moments(NamedTuple):
    """Sums over the points of a rank; sums from different ranks can be added."""

    samples: Tensor
    """Number of points, a scalar."""
    outer: Tensor
    """Sum of x x^T, `[d, d]`."""
    band_count: Tensor
    """Number of points in each band, `[2]`."""
    band_outer: Tensor
    """Sum of z z^T in each band, `[2, d - 1, d - 1]`."""
    band_fourth: Tensor
    """Sum of q q^T in each band, where q is `pairs(z)`; the shape is `[2, P, P]`, or `[2, 0, 0]` if the degree is 2."""


class Reference(NamedTuple):
    """Mass of a rotation-invariant target in each band, and ratios of its moments in a band to those of N(0, I)."""

    mass: list[float]
    """Expected fraction of points in each band."""
    second: list[float]
    """Expectation of <v, z>^2 in each band for a unit vector v."""
    fourth: list[float]
    """Expectation of <v, z>^4 / 3 in each band for a unit vector v."""


def normal_reference(sigma: float) -> Reference:
    """Return the mass and moments of N(0, I) for bands of width sigma."""
    ones = [1.0] * len(BANDS)
    return Reference([math.erf(sigma / c / math.sqrt(2)) for c in BANDS], ones, ones)


def ball_reference(sigma: float, dim: int) -> Reference:
    """Compute the mass and moments of `datamodules.tables.halfspaces.normal_in_ball` by quadrature.

    Let F_k be the cumulative distribution function of the chi-squared distribution with k degrees of freedom, s the
    scale of the target, and phi the standard normal density. Let I_k = int phi(t) F_k(d - t^2) dt over |t| <= s sigma /
    c. The mass is then I_{d-1} / F_d(d), and the moments are I_{d+1} / (s^2 I_{d-1}) and I_{d+3} / (s^4 I_{d-1}).
    """
    scale, (node, weight) = ball_std(dim), np.polynomial.legendre.leggauss(100)
    found = []
    for c in BANDS:
        half = min(scale * sigma / c, math.sqrt(dim))
        t = half * node
        density = half * weight * np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
        mass, second, fourth = (float(density @ chi2.cdf(dim - t**2, dim + k)) for k in (-1, 1, 3))
        found.append((mass / float(chi2.cdf(dim, dim)), second / mass / scale**2, fourth / mass / scale**4))
    return Reference(*map(list, zip(*found, strict=True)))


def statistic_names(degree: int) -> list[str]:
    """Return the names of the values that `statistics` returns."""
    in_band = ("mass", "degree_2", *(["degree_4"] if degree == 4 else []))
    return ["covariance", *(f"{name}_band_{c:g}" for name in in_band for c in BANDS)]


def caps(degree: int) -> Tensor:
    """Return the maximum threshold of each statistic, in the order of `statistic_names`."""
    return torch.tensor([CAPS[name.split("_band")[0]] for name in statistic_names(degree)], dtype=torch.float64)


def complement(weight: Tensor) -> Tensor:
    """Return an orthonormal basis, `[d, d - 1]`, of the orthogonal complement of a vector `[d]`."""
    return torch.linalg.qr(weight[:, None], mode="complete").Q[:, 1:]


def pairs(z: Tensor) -> Tensor:
    """Map each row z of `[N, p]` to the matrix z z^T, stored as a vector; the result is `[N, p (p + 1) / 2]`.

    The norm of the vector equals the Frobenius norm of the symmetric matrix.
    """
    row, column = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    return z[:, row] * z[:, column] * (1 + (row != column).to(z)).sqrt()


def moments(features: Tensor, weight: Tensor, sigma: float, degree: int) -> Moments:
    """Compute the sums over points that are needed for the test statistics.

    Args:
        features: points x, `[N, d]`.
        weight: normal vector w of the halfspace, `[d]`, of norm 1.
        sigma: width of the bands.
        degree: maximum degree of the moments, 2 or 4.
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
    """Compute the operator norms of symmetric matrices `[K, p, p]`.

    The result is `[K]`.
    """
    return torch.linalg.eigvalsh(symmetric).abs().amax(1)


def statistics(found: Moments, sigma: float, degree: int, reference: Reference | None = None) -> Tensor:
    """Compute the statistics T1 to T3 in the order of `statistic_names`.

    In a band with fewer than d^2 points, T3 is infinite.

    Args:
        found: sums over the points of all ranks.
        sigma: width of the bands.
        degree: maximum degree of the moments, 2 or 4.
        reference: mass and moments of the target in the bands; None means N(0, I).
    """
    mass_of, second_of, fourth_of = map(found.outer.new_tensor, reference or normal_reference(sigma))
    dim = len(found.outer)
    identity = torch.eye(dim, dtype=found.outer.dtype, device=found.outer.device)
    count = found.band_count.clamp(min=1)[:, None, None]
    mass = (found.band_count / found.samples / mass_of - 1).abs()
    in_band = [_norms(found.band_outer / count / second_of[:, None, None] - identity[1:, 1:])]
    if degree == 4:
        unit = pairs(torch.eye(dim - 1, dtype=found.outer.dtype, device=found.outer.device)).sum(0)  # I as a vector
        normal = torch.outer(unit, unit) + 2 * torch.eye(len(unit)).to(unit)
        in_band.append(_norms(found.band_fourth / count / fourth_of[:, None, None] - normal))
    enough = found.band_count >= dim**2
    moments_in_band = torch.stack(in_band).where(enough, math.inf)
    return torch.cat([_norms((found.outer / found.samples - identity)[None]), mass, moments_in_band.flatten()])


def joint_thresholds(drawn: Tensor, delta: float) -> Tensor:
    """Compute thresholds, `[K]`, such that in a fraction 1 - delta of the samples, no statistic exceeds its threshold.

    All thresholds are quantiles at the same level; this level is as low as possible.

    Args:
        drawn: statistics of the simulated samples, `[draws, K]`.
        delta: fraction, in (0, 1), of the simulated samples in which at least one statistic may exceed its threshold.
    """
    worst = drawn.argsort(0).argsort(0).amax(1).sort().values
    level = worst[math.ceil((1 - delta) * len(drawn)) - 1]
    return drawn.sort(0).values[level]
