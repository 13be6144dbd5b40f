"""Ornstein-Uhlenbeck variance-exploding (OUVE) process from a clean signal to its noisy observation.

    dx = gamma (y - x) dt + g(t) dw,    g(t) = smin (smax / smin)^t sqrt(2 L),    L = log(smax / smin)

Given x_0 and the observation y, x_t has mean e^{-gamma t} x_0 + (1 - e^{-gamma t}) y and variance

    smin^2 e^{-2 gamma t} (e^{2 (gamma + L) t} - 1) L / (gamma + L).

If signals are complex, the noise has E|z|^2 = 1, half in the real and half in the imaginary part. The score is -(x_t -
mean) / variance. The mean of the prior is set to y.

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830.
"""

import copy
import math
from typing import Self

import torch
from torch import Tensor

from datamodules.arguments import positive
from lightning_modules.sde.processes import Process, along


class OUVE(Process):
    """Ornstein-Uhlenbeck process with exploding variance, which drifts towards an observation.

    Args:
        stiffness: rate gamma of the drift towards the observation.
        sigma_min: smallest noise scale smin, in units of the signal.
        sigma_max: largest noise scale smax, in units of the signal.

    Raises:
        ValueError: if an argument is not positive, or `sigma_max` is not larger than `sigma_min`.
    """

    sampling_end = 0.03
    observed: Tensor

    def __init__(self, stiffness: float = 1.5, sigma_min: float = 0.05, sigma_max: float = 0.5) -> None:
        positive(stiffness=stiffness, sigma_min=sigma_min)
        if not sigma_max > sigma_min:
            raise ValueError(f"sigma_max must be larger than sigma_min {sigma_min}, got {sigma_max}")
        self.stiffness = stiffness
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.growth = math.log(sigma_max / sigma_min)
        self.prior_deviation = float(self.deviation(torch.ones(1, dtype=torch.float64, device="cpu")))

    def towards(self, observed: Tensor) -> Self:
        """Return a copy of the process that drifts towards a batch of observations y, `[B, ...]`."""
        process = copy.copy(self)
        process.observed = observed
        return process

    def deviation(self, t: Tensor) -> Tensor:
        """Compute the standard deviation of x_t, given x_0 and y.

        The result has the shape of t.
        """
        both = self.stiffness + self.growth
        grown = torch.expm1(2 * both * t) * torch.exp(-2 * self.stiffness * t)
        return self.sigma_min * (grown * (self.growth / both)).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.stiffness * (self.observed - x)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self.growth * t) * math.sqrt(2 * self.growth)

    def kernel(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        left = along(torch.exp(-self.stiffness * t), clean)
        return left * clean + (1 - left) * self.observed, self.deviation(t)

    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        left = along(torch.exp(-self.stiffness * t), x)
        return (x + along(self.deviation(t) ** 2, x) * score - (1 - left) * self.observed) / left

    def prior_mean(self, x: Tensor) -> Tensor:
        return self.observed
