"""Scores of data with known noisy densities: a Gaussian, and a mixture of Gaussians around points."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_modules.sde.processes import VE, VP, Process, SubVP, along

PROCESSES = [VE(0.01, 10.0), VP(), SubVP()]


def shrinkage(process: Process, t: Tensor) -> Tensor:
    """Return m(t), with the shape of t."""
    return process.kernel(torch.ones_like(t), t)[0]


def variance(process: Process, t: Tensor, deviation: float) -> Tensor:
    """Return the variance of x_t for data with a given standard deviation."""
    return shrinkage(process, t) ** 2 * deviation**2 + process.kernel(torch.zeros_like(t), t)[1] ** 2


def gaussian_score(process: Process, mean: float, deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the score of N(mean, deviation^2 I) data; for complex data, E|x - mean|^2 is deviation^2."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        t = t.double()
        return (along(shrinkage(process, t) * mean, x) - x) / along(variance(process, t, deviation), x)

    return score


def mixture_score(process: Process, points: Tensor, deviation: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the score of equally weighted Gaussians around points `[K, ...]`."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        m, v = shrinkage(process, t), variance(process, t, deviation)
        centres = m[:, None, None] * points.flatten(1)
        away = centres - x.flatten(1)[:, None]
        weight = (-away.square().sum(dim=2) / (2 * v[:, None])).softmax(dim=1)
        return ((weight[:, :, None] * away).sum(dim=1) / v[:, None]).view_as(x)

    return score
