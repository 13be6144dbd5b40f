"""Smooth surrogates of the 0-1 loss of a halfspace, and their gradients on the unit sphere."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def polynomial_step(t: Tensor, sigma: float) -> Tensor:
    """Compute a piecewise polynomial step function from 0 to 1.

    The function is twice differentiable. It equals 1/2 + t / sigma for |t| <= sigma / 6, and is constant for |t| >=
    sigma / 2.

    Between these ranges, for positive t, it equals 2/3 + (u + 4 u^3 - 7 u^4 + 3 u^5) / 3 with u = (|t| - sigma / 6) /
    (sigma / 3).
    """
    size = t.abs()
    u = ((size - sigma / 6) / (sigma / 3)).clamp(0, 1)
    flank = 2 / 3 + (u + 4 * u**3 - 7 * u**4 + 3 * u**5) / 3
    return 0.5 + t.sign() * (torch.where(size <= sigma / 6, 0.5 + size / sigma, flank) - 0.5)


def ramp_slope(t: Tensor, sigma: float) -> Tensor:
    """Compute the derivative of `ramp`.

    The derivative is 1 / sigma for |t| <= sigma / 6, and (1 + 12 u^2 - 28 u^3 + 15 u^4) / sigma for larger |t| up to
    sigma / 2.
    """
    u = ((t.abs() - sigma / 6) / (sigma / 3)).clamp(0, 1)
    return (1 + 12 * u**2 - 28 * u**3 + 15 * u**4) / sigma


def logistic(t: Tensor, sigma: float) -> Tensor:
    """Compute the logistic step 1 / (1 + exp(-t / sigma)) from 0 to 1."""
    return torch.sigmoid(t / sigma)


def logistic_slope(t: Tensor, sigma: float) -> Tensor:
    """Compute the derivative of `logistic`."""
    value = torch.sigmoid(t / sigma)
    return value * (1 - value) / sigma


class Surrogate(NamedTuple):
    """A smooth step function l, its derivative, and a constant for computing the sampling error of the gradient."""

    value: Callable[[Tensor, float], Tensor]
    """Function l(t) of t and sigma."""
    slope: Callable[[Tensor, float], Tensor]
    """Derivative l'(t), which is an even function of t."""
    energy: float
    """Integral of l'^2, multiplied by sigma."""


SURROGATES: Mapping[str, Surrogate] = {
    "ramp": Surrogate(polynomial_step, ramp_slope, 121 / 105),
    "logistic": Surrogate(logistic, logistic_slope, 1 / 6),
}


def surrogate_loss(features: Tensor, target: Tensor, weight: Tensor, surrogate: Surrogate, sigma: float) -> Tensor:
    """Compute the mean of l(-y <w, x> / |w|) over rows.

    Args:
        features: points x, `[N, d]`.
        target: labels y in {-1, 1}, `[N]`.
        weight: normal vector w of the halfspace, `[d]`, of any norm.
        surrogate: smooth step function l.
        sigma: width of the step.
    """
    return surrogate.value(-target * (features @ weight) / weight.norm(), sigma).mean()


def summed_gradients(features: Tensor, target: Tensor, weights: Tensor, surrogate: Surrogate, sigma: float) -> Tensor:
    """Compute the sum of -y l'(<w, x>) (x - <w, x> w) over rows for each of K unit vectors w, `[K, d]`.

    Each sum is orthogonal to its w.

    Args:
        features: points x, `[N, d]`.
        target: labels y in {-1, 1}, `[N]`.
        weights: normal vectors w of K halfspaces, `[K, d]`, of norm 1.
        surrogate: smooth step function l.
        sigma: width of the step.
    """
    margin = weights @ features.T
    coefficient = -target * surrogate.slope(margin, sigma)
    return coefficient @ features - (coefficient * margin).sum(1, keepdim=True) * weights


def sampling_error(samples: int, dim: int, surrogate: Surrogate, sigma: float) -> float:
    """Return the approximate norm that the mean gradient of Gaussian points has by chance.

    The norm is sqrt((d - 1) E[l'^2] / n), where E[l'^2] is about phi(0) times the integral of l'^2.
    """
    return math.sqrt(surrogate.energy / math.sqrt(2 * math.pi) * (dim - 1) / (sigma * samples))
