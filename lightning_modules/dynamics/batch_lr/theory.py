"""Closed-form scaling of Hessian eigenvalues and learning rates with the batch size.

b = B / (1 - B / N),    lambda_B = lambda + c / b,    eta_max = 2 / lambda_B
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from datamodules.arguments import one_of, positive

Scaling = Literal["linear", "square_root"]
POWERS = {"linear": 1.0, "square_root": 0.5}


def effective_batch(batch_size: int, samples: int) -> float:
    """Compute b = B / (1 - B / N) for batches of B samples, drawn from N without replacement; infinity if B = N."""
    return batch_size / (1 - batch_size / samples) if batch_size < samples else math.inf


def isotropic(eigenvalue: float, variance: float) -> float:
    """Predict an extreme eigenvalue of a matrix plus a Wigner matrix, i.e. symmetric noise with independent entries.

        lambda + (v / lambda) where |lambda| > sqrt(v), else 2 sqrt(v) with the sign of lambda

    Args:
        eigenvalue: eigenvalue lambda without noise.
        variance: v = P sigma^2 / b, the sum of the variances of the noise entries in a row.
    """
    if abs(eigenvalue) > math.sqrt(variance):
        return eigenvalue + variance / eigenvalue
    return math.copysign(2 * math.sqrt(variance), eigenvalue)


def spiked_covariance(eigenvalue: float, trace: float, size: int, effective: float) -> float:
    """Predict the largest eigenvalue of a batch's Gauss-Newton matrix, assuming Marchenko-Pastur noise.

        lambda + gamma s lambda / (lambda - s) where lambda > s (1 + sqrt gamma), else s (1 + sqrt gamma)^2

    The batch's matrix is treated as a sample covariance matrix. The Gauss-Newton matrix of all samples has the largest
    eigenvalue lambda, and all its other eigenvalues are assumed to have the same value s. Here gamma = (P - 1) / b. If
    lambda is far above s, the shift is approximately (trace - lambda) / b.

    Args:
        eigenvalue: largest eigenvalue lambda of the Gauss-Newton matrix of all samples.
        trace: trace of the Gauss-Newton matrix of all samples.
        size: number P of weights.
        effective: effective batch size b.
    """
    bulk, ratio = (trace - eigenvalue) / (size - 1), (size - 1) / effective
    if eigenvalue > bulk * (1 + math.sqrt(ratio)):
        return eigenvalue + ratio * bulk * eigenvalue / (eigenvalue - bulk)
    return bulk * (1 + math.sqrt(ratio)) ** 2


def least_damping(rate: float, eigenvalue: float, batch_eigenvalue: float) -> float:
    """Compute the smallest stable damping of a second-order method, max(0, eta lambda_B / 2 - lambda).

    The step w <- w - eta (H + damping)^-1 H_B w contracts the component of w along an eigenvector if eta lambda_B < 2
    (lambda + damping). With lambda_B = lambda + c / b and a small batch, the smallest stable damping is proportional to
    eta / b.

    Args:
        rate: learning rate eta.
        eigenvalue: largest eigenvalue lambda of the curvature estimate.
        batch_eigenvalue: largest eigenvalue lambda_B of the Hessian of the batch on which the gradient is computed.
    """
    return max(0.0, rate * batch_eigenvalue / 2 - eigenvalue)


def fitted_constant(shift: Sequence[float], effective: Sequence[float], error: Sequence[float]) -> tuple[float, float]:
    """Fit c in lambda_B - lambda = c / b by least squares, and return c and its standard error.

    Args:
        shift: shifts lambda_B - lambda, averaged over batches.
        effective: effective batch size b of each shift.
        error: standard errors of the shifts. If a standard error is zero (for infinite b or a single batch), all shifts
            have equal weights.
    """
    y, x, e = (torch.tensor(each, dtype=torch.float64) for each in (shift, [1 / b for b in effective], error))
    weight = e**-2 if bool((e > 0).all()) else torch.ones_like(e)
    total = (weight * x**2).sum()
    c = (weight * x * y).sum() / total
    return float(c), float(((weight * x * e) ** 2).sum().sqrt() / total)


class NoiseStatistics(NamedTuple):
    """Statistics, relative to a direction z, of a set of vectors (one per batch) and of their mean."""

    mu: float
    """Inner product of z and the mean vector; if the vectors are products H_i z, it is the mean curvature along z."""
    variance: float
    """Mean squared distance between the vectors and their mean."""
    delta: float
    """Squared norm of the component of the mean vector that is orthogonal to z."""
    alpha: float
    """Shrinkage max(0, 1 - variance / (n delta)), the fraction of the orthogonal component that is not noise."""


def noise_statistics(mean: Tensor, mean_square: float, direction: Tensor, batches: int) -> NoiseStatistics:
    """Compute noise statistics of a set of vectors, one per batch, such as products H_i z or gradients.

    Args:
        mean: mean of the vectors over batches, `[P]`.
        mean_square: mean squared norm of the vectors.
        direction: unit vector z, `[P]`. For gradients, the authors use the unit vector with equal entries.
        batches: number n of batches.
    """
    mu = float(direction @ mean)
    variance = max(0.0, mean_square - float(mean @ mean))
    delta = float(((mean - mu * direction) ** 2).sum())
    alpha = max(0.0, 1 - variance / (batches * delta)) if delta > 0 else 0.0
    return NoiseStatistics(mu, variance, delta, alpha)


def scaled_rate(rate: float, batch_size: int, reference: int, scaling: Scaling) -> float:
    """Scale a learning rate from a reference batch size by B / B_0 (SGD) or by sqrt(B / B_0) (Adam)."""
    one_of(POWERS, scaling=scaling)
    return rate * (batch_size / reference) ** POWERS[scaling]


def scaled_damping(damping: float, batch_size: int, reference: int) -> float:
    """Scale the damping of a second-order method by B_0 / B, for a constant learning rate."""
    return damping * reference / batch_size


def scale(optimizer: Optimizer, batch_size: int, reference: int, scaling: Scaling) -> None:
    """Scale the damping or the learning rate in all parameter groups of an optimizer.

    The learning rate is scaled only if the optimizer has no damping.

    Args:
        optimizer: optimizer whose settings refer to the reference batch size.
        batch_size: global batch size B, including gradient accumulation.
        reference: reference batch size B_0.
        scaling: scaling of the learning rate, `linear` for SGD or `square_root` for Adam; ignored if the optimizer has
            a damping.
    """
    positive(batch_size=batch_size, reference_batch_size=reference)
    for group in optimizer.param_groups:
        if "damping" in group:
            group["damping"] = scaled_damping(group["damping"], batch_size, reference)
        else:
            group["lr"] = scaled_rate(group["lr"], batch_size, reference, scaling)
