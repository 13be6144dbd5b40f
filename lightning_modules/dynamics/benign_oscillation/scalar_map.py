"""The map of one number that a network follows while its strong feature decides, and the rates at which it oscillates.

On a strong point with s = y f and a = 4 eta ||u||^2 / m, filters along u alone give

    s <- s (1 + a (1 - s))^2.

Its fixed point 1 has the multiplier 1 - 2a. For a > 1 it is left for ever, and as long as 4 (1 + a)^2 <= 27 the
greatest s that is reached, after (1 + a) / (3a), stays below the zero (1 + a) / a, so that no filter is thrown to the
other side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

GREATEST_A = math.sqrt(27 / 4) - 1
"""The map is bounded, with 1 + a (1 - s) > 0, up to here: 1.598."""


def map_parameter(rate: float, filters: int, strong_norm: float) -> float:
    """Compute a = 4 eta ||u||^2 / m, of the loss (f - y)^2 without 1/2 and an output with 1/m."""
    return 4 * rate * strong_norm**2 / filters


def window(filters: int, strong_norm: float) -> tuple[float, float]:
    """Give the rates of 1 < a <= sqrt(27/4) - 1, where the map oscillates: the paper's m/4 and 2m/5 over ||u||^2."""
    unit = map_parameter(1.0, filters, strong_norm)
    return 1 / unit, GREATEST_A / unit


def scalar_map(s: Tensor, a: Tensor) -> Tensor:
    """Take one step of the map: s (1 + a (1 - s))^2."""
    return s * (1 + a * (1 - s)) ** 2


class Orbit(NamedTuple):
    """A long orbit of the map, for each of some a `[n]`."""

    last: Tensor
    """`[kept, n]`: where it ends."""
    mean_residual: Tensor
    """`[n]`: the mean of 1 - s over all steps, positive where it oscillates: what makes the weak feature grow."""


def orbit(a: Tensor, start: float = 0.3, steps: int = 2000, kept: int = 200) -> Orbit:
    """Follow the map from a start.

    Args:
        a: `[n]`.
        start: s_0.
        steps: number of steps.
        kept: how many of the last values are given.
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
    """Follow the map at many a up to the greatest: a, s at the end of the orbit, and the mean of 1 - s or 0 if less.

    Args:
        least: the least a.
        count: number of a.
        kept: values of s of each.

    Returns:
        Three lists of `count * kept` numbers.
    """
    a = torch.linspace(least, GREATEST_A, count, dtype=torch.float64)
    found = orbit(a, kept=kept)
    rows = (a.expand(kept, -1), found.last, found.mean_residual.clamp(min=0).expand(kept, -1))
    of_a, of_s, of_mean = (each.T.flatten().tolist() for each in rows)
    return of_a, of_s, of_mean
