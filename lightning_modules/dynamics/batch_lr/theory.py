"""The Hessian of a batch beside that of all samples, and how rates follow: equations without a network.

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
    """Compute b = B / (1 - B / N), as B of N samples are drawn without repetition; infinite where all are drawn."""
    return batch_size / (1 - batch_size / samples) if batch_size < samples else math.inf


def isotropic(eigenvalue: float, variance: float) -> float:
    """Predict an extreme eigenvalue under symmetric noise with independent entries, as Wigner's.

        lambda + (v / lambda) where |lambda| > sqrt(v), else 2 sqrt(v) with the sign of lambda

    Args:
        eigenvalue: lambda, without the noise.
        variance: v = P sigma^2 / b, the sum of a row's variances.
    """
    if abs(eigenvalue) > math.sqrt(variance):
        return eigenvalue + variance / eigenvalue
    return math.copysign(2 * math.sqrt(variance), eigenvalue)


def fitted_constant(shift: Sequence[float], effective: Sequence[float], error: Sequence[float]) -> tuple[float, float]:
    """Fit c in lambda_B - lambda = c / b by least squares, and give its standard error.

    Args:
        shift: lambda_B - lambda, means over batches.
        effective: b of each.
        error: standard errors of the shifts; where one is zero, as of b infinite or of one batch, all weigh the same.
    """
    y, x, e = (torch.tensor(each, dtype=torch.float64) for each in (shift, [1 / b for b in effective], error))
    weight = e**-2 if bool((e > 0).all()) else torch.ones_like(e)
    total = (weight * x**2).sum()
    c = (weight * x * y).sum() / total
    return float(c), float(((weight * x * e) ** 2).sum().sqrt() / total)


class NoiseStatistics(NamedTuple):
    """The scatter of batches about their mean, in one direction or as a whole."""

    mu: float
    """z . mean: of products H z the mean curvature along z."""
    variance: float
    """Mean squared distance of a batch's vector from the mean."""
    delta: float
    """Squared length of the mean across z."""
    alpha: float
    """Shrinkage max(0, 1 - variance / (n delta)): how much of what is across z is no noise."""


def noise_statistics(mean: Tensor, mean_square: float, direction: Tensor, batches: int) -> NoiseStatistics:
    """Compare the mean of vectors of batches, as products H_i z or gradients, with how they scatter.

    Args:
        mean: over batches, `[P]`.
        mean_square: mean of their squared lengths.
        direction: unit vector z `[P]`; of gradients the authors take the one with equal entries.
        batches: n.
    """
    mu = float(direction @ mean)
    variance = max(0.0, mean_square - float(mean @ mean))
    delta = float(((mean - mu * direction) ** 2).sum())
    alpha = max(0.0, 1 - variance / (batches * delta)) if delta > 0 else 0.0
    return NoiseStatistics(mu, variance, delta, alpha)


def scaled_rate(rate: float, batch_size: int, reference: int, scaling: Scaling) -> float:
    """Scale a learning rate from a reference's batch size to another: by B / B_0 for SGD, its root for Adam.

    Raises:
        ValueError: if the scaling is unknown.
    """
    one_of(POWERS, scaling=scaling)
    return rate * (batch_size / reference) ** POWERS[scaling]


def scaled_damping(damping: float, batch_size: int, reference: int) -> float:
    """Scale the least damping of a second-order method at a constant rate: by B_0 / B."""
    return damping * reference / batch_size


def scale(optimizer: Optimizer, batch_size: int, reference: int, scaling: Scaling) -> None:
    """Scale the rate, and the damping where there is one, of all groups of an optimizer.

    Args:
        optimizer: its rates are those at the reference's batch size.
        batch_size: B, over all processes and accumulated batches.
        reference: B_0.
        scaling: of the rate: `linear` for SGD, `square_root` for Adam. With a damping, which scales, the rate stays.
    """
    positive(batch_size=batch_size, reference_batch_size=reference)
    for group in optimizer.param_groups:
        if "damping" in group:
            group["damping"] = scaled_damping(group["damping"], batch_size, reference)
        else:
            group["lr"] = scaled_rate(group["lr"], batch_size, reference, scaling)
