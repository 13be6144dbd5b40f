"""Scalar map that describes a network while the strong feature dominates, and learning rates for which it oscillates.

Consider a strong point, and let s = y f and a = 4 eta ||u||^2 / m. If the filters are parallel to u, an SGD step gives

    s <- s (1 + a (1 - s))^2.

The derivative of the map at its fixed point s = 1 is 1 - 2a, so the fixed point is unstable for a > 1. The map has its
maximum at s = (1 + a) / (3a). If 4 (1 + a)^2 <= 27, this maximum is below the zero of the map, (1 + a) / a. The factor
1 + a (1 - s) then stays positive, so filters do not change their signs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

GREATEST_A = math.sqrt(27 / 4) - 1
"""Largest a, 1.598, for which the map is bounded and 1 + a (1 - s) > 0."""


def map_parameter(rate: float, filters: int, strong_norm: float) -> float:
    """Compute a = 4 eta ||u||^2 / m for the loss (f - y)^2, without a factor 1/2, and an output f with a factor 1/m."""
    return 4 * rate * strong_norm**2 / filters


def window(filters: int, strong_norm: float) -> tuple[float, float]:
    """Compute the learning rates between which the map oscillates: those for a = 1 and for a = sqrt(27/4) - 1.

    The range between them is about [m/4, 2m/5] / ||u||^2.
    """
    unit = map_parameter(1.0, filters, strong_norm)
    return 1 / unit, GREATEST_A / unit


def scalar_map(s: Tensor, a: Tensor) -> Tensor:
    """Apply the map s -> s (1 + a (1 - s))^2 once."""
    return s * (1 + a * (1 - s)) ** 2


class Orbit(NamedTuple):
    """Long orbits of the map for n values of a."""

    last: Tensor
    """Final values of s in each orbit, `[kept, n]`."""
    mean_residual: Tensor
    """Mean of 1 - s over all steps, `[n]`; if it is positive, the weak feature grows during the oscillation."""


def orbit(a: Tensor, start: float = 0.3, steps: int = 2000, kept: int = 200) -> Orbit:
    """For each value of a, iterate the map from the same initial value.

    Args:
        a: parameters a of the map, `[n]`.
        start: initial value of s.
        steps: number of steps.
        kept: number of final values of s to return for each orbit.
    """
    s = torch.full_like(a, start)
    total, last = torch.zeros_like(a), []
    for step in range(steps):
        total += 1 - s
        s = scalar_map(s, a)
        if step >= steps - kept:
            last.append(s)
    return Orbit(torch.stack(last), total / steps)


def bifurcation(least: float = 0.8, count: int = 240, kept: int = 40) -> tuple[list[float], list[float], list[float]]:
    """Compute the bifurcation diagram of the map: values of a, final values of s, and means of 1 - s.

    Args:
        least: smallest value of a; the largest value is `GREATEST_A`.
        count: number of values of a.
        kept: number of final values of s for each a.

    Returns:
        Lists of the values of a, of s and of the mean of 1 - s, each with `count * kept` entries. Negative means are
        replaced by 0.
    """
    a = torch.linspace(least, GREATEST_A, count, dtype=torch.float64)
    found = orbit(a, kept=kept)
    rows = (a.expand(kept, -1), found.last, found.mean_residual.clamp(min=0).expand(kept, -1))
    of_a, of_s, of_mean = (each.T.flatten().tolist() for each in rows)
    return of_a, of_s, of_mean
