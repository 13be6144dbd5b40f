"""Smooth surrogates of the 0-1 loss of a halfspace, and their gradients on the sphere."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def ramp(t: Tensor, sigma: float) -> Tensor:
    """Step smoothly from 0 to 1.

    The step is 1/2 + t / sigma for |t| <= sigma / 6, constant for |t| >= sigma / 2, and twice differentiable.

    With u = (|t| - sigma / 6) / (sigma / 3) in [0, 1] the flank is 2/3 + (u + 4 u^3 - 7 u^4 + 3 u^5) / 3.
    """
    size = t.abs()
    u = ((size - sigma / 6) / (sigma / 3)).clamp(0, 1)
    flank = 2 / 3 + (u + 4 * u**3 - 7 * u**4 + 3 * u**5) / 3
    return 0.5 + t.sign() * (torch.where(size <= sigma / 6, 0.5 + size / sigma, flank) - 0.5)


def ramp_slope(t: Tensor, sigma: float) -> Tensor:
    """Differentiate `ramp`: 1 / sigma for |t| <= sigma / 6, (1 + 12 u^2 - 28 u^3 + 15 u^4) / sigma up to sigma / 2."""
    u = ((t.abs() - sigma / 6) / (sigma / 3)).clamp(0, 1)
    return (1 + 12 * u**2 - 28 * u**3 + 15 * u**4) / sigma


def logistic(t: Tensor, sigma: float) -> Tensor:
    """Step smoothly from 0 to 1 by 1 / (1 + exp(-t / sigma))."""
    return torch.sigmoid(t / sigma)


def logistic_slope(t: Tensor, sigma: float) -> Tensor:
    """Differentiate `logistic`."""
    value = torch.sigmoid(t / sigma)
    return value * (1 - value) / sigma


class Surrogate(NamedTuple):
    """A smooth step l, with its slope and its constants."""

    value: Callable[[Tensor, float], Tensor]
    """l(t), of t and sigma."""
    slope: Callable[[Tensor, float], Tensor]
    """l'(t), which is even."""
    energy: float
    """sigma times the integral of l'^2."""


SURROGATES: Mapping[str, Surrogate] = {
    "ramp": Surrogate(ramp, ramp_slope, 121 / 105),
    "logistic": Surrogate(logistic, logistic_slope, 1 / 6),
}


def surrogate_loss(features: Tensor, target: Tensor, weight: Tensor, surrogate: Surrogate, sigma: float) -> Tensor:
    """Average l(-y <w, x> / |w|) over rows.

    Args:
        features: x, `[N, d]`.
        target: y, `[N]`, in {-1, 1}.
        weight: normal vector w of the halfspace, `[d]`, of any norm.
        surrogate: l.
        sigma: its width.
    """
    return surrogate.value(-target * (features @ weight) / weight.norm(), sigma).mean()


def summed_gradients(features: Tensor, target: Tensor, weights: Tensor, surrogate: Surrogate, sigma: float) -> Tensor:
    """Sum -y l'(<w, x>) (x - <w, x> w) over rows for K unit vectors w, `[K, d]`.

    Each sum is orthogonal to its w.

    Args:
        features: x, `[N, d]`.
        target: y, `[N]`, in {-1, 1}.
        weights: normal vectors w of K halfspaces, `[K, d]`, of norm 1.
        surrogate: l.
        sigma: its width.
    """
    margin = weights @ features.T
    coefficient = -target * surrogate.slope(margin, sigma)
    return coefficient @ features - (coefficient * margin).sum(1, keepdim=True) * weights


def sampling_error(samples: int, dim: int, surrogate: Surrogate, sigma: float) -> float:
    """Return the norm that the mean gradient is expected to have by chance for Gaussian points.

    The norm is sqrt((d - 1) E[l'^2] / n), where E[l'^2] is about phi(0) times the integral of l'^2.
    """
    return math.sqrt(surrogate.energy / math.sqrt(2 * math.pi) * (dim - 1) / (sigma * samples))
