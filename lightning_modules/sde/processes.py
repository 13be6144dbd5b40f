"""Diffusion processes from data to noise in continuous time: dx = f(x, t) dt + g(t) dw for t in [0, 1].

|        | f(x, t)       | g(t)                                   | x_t given x_0: mean, deviation | x_1          |
|--------|---------------|----------------------------------------|--------------------------------|--------------|
| VE     | 0             | sigma(t) sqrt(2 log(smax / smin))      | x_0, sigma(t)                  | N(0, smax^2) |
| VP     | -beta(t) x/2  | sqrt(beta(t))                          | m x_0, sqrt(1 - m^2)           | N(0, 1)      |
| sub-VP | -beta(t) x/2  | sqrt(beta(t) (1 - e^{-2 B(t)}))        | m x_0, 1 - m^2                 | N(0, 1)      |

Here sigma(t) = smin (smax / smin)^t, beta(t) = bmin + t (bmax - bmin), B is the integral of beta, and m(t) = e^{-B(t) /
2}. The exact variance of x_t given x_0 in the VE process is sigma(t)^2 - sigma(0)^2. The paper, the authors' code and
this module use sigma(t)^2 instead.

The methods of a process accept x of any shape `[B, ...]`, real or complex, and times `[B]` or `[1]`. The drift of some
processes depends on an observation, such as a degraded image or noisy speech. Such a process stores the observations of
the current batch.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, section 3 and appendices B, C and E.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from datamodules.arguments import at_least, positive


def along(value: Tensor, x: Tensor) -> Tensor:
    """Convert a tensor `[B]` or `[1]` to the device, precision and number of dimensions of x, `[B, ...]`."""
    return value.to(x.device, x.real.dtype).view(-1, *[1] * (x.ndim - 1))


class Process(ABC):
    """A diffusion process from data at t = 0 to a normal distribution at t = 1.

    In discrete time, the process has n steps and a grid of n noise levels. At time t, the level has the index i =
    floor(t (n - 1)).
    """

    prior_deviation: float
    """Standard deviation of x_1 around `prior_mean`."""
    sampling_end: float
    """Default final time of samplers: the smallest time at which they evaluate the score."""

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Compute f(x, t), `[B, ...]`."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Compute the noise coefficient g(t), with the shape of t."""

    @abstractmethod
    def kernel(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean of x_t given x_0, `[B, ...]`, and its standard deviation, which has the shape of t."""

    @abstractmethod
    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Compute E[x_0 | x_t] from the score at x_t, by Tweedie's formula."""

    def prior_mean(self, x: Tensor) -> Tensor:
        """Return the mean of x_1, with the shape of x."""
        return torch.zeros_like(x)

    def prior_log_density(self, x: Tensor) -> Tensor:
        """Compute the log density of the prior (the distribution of x_1) at real-valued x; the result is `[B]`."""
        squares = (x - self.prior_mean(x)).flatten(1).square().sum(dim=1)
        variance = self.prior_deviation**2
        return -0.5 * (squares / variance + x[0].numel() * math.log(2 * math.pi * variance))

    def step(self, x: Tensor, t: Tensor, n: float) -> tuple[Tensor, Tensor]:
        """Compute f_i and G_i of an Euler-Maruyama step x_{i+1} = x_i + f_i + G_i z; G_i has the shape of t."""
        return self.drift(x, t) / n, self.diffusion(t) / math.sqrt(n)

    def ancestral(self, x: Tensor, t: Tensor, n: float, score: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean and standard deviation of x_{i-1} given x_i, for ancestral sampling of the discrete model.

        Raises:
            ValueError: if ancestral sampling is not defined for the process.
        """
        raise ValueError(f"predictor ancestral is not defined for {type(self).__name__}; use another predictor")

    def langevin_scale(self, t: Tensor, n: float) -> Tensor:
        """Compute the factor a in the size of Langevin steps (see `samplers`), with the shape of t."""
        return torch.ones_like(t)


def grid_level(t: Tensor, n: float) -> Tensor:
    """Compute the index floor(t (n - 1)) of the noise level at time t.

    If t (n - 1) is below an integer only because of rounding errors, the result is this integer.
    """
    return (t * (n - 1) + 1e-4).floor()


class VE(Process):
    """The variance exploding (VE) process.

    This process is the continuous-time limit of denoising score matching with Langevin dynamics (SMLD, NCSN).

    Args:
        sigma_min: smallest standard deviation of the noise, in units of the data.
        sigma_max: largest standard deviation of the noise.
    """

    sampling_end = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        positive(sigma_min=sigma_min)
        if not sigma_max > sigma_min:
            raise ValueError(f"sigma_max must be larger than sigma_min {sigma_min}, got {sigma_max}")
        self.sigma_min = sigma_min
        self.sigma_max = self.prior_deviation = sigma_max

    def sigma(self, t: Tensor) -> Tensor:
        """Compute sigma(t)."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time_of(self, sigma: Tensor) -> Tensor:
        """Compute the time t at which the noise in x_t has standard deviation sigma."""
        return (sigma / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def kernel(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return clean, self.sigma(t)

    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        return x + along(self.sigma(t) ** 2, x) * score

    def grid_sigmas(self, t: Tensor, n: float) -> tuple[Tensor, Tensor]:
        """Compute sigma_i and sigma_{i-1} on a geometric grid of n noise levels; i is the level index of time t.

        For the first level, sigma_{i-1} is 0.
        """
        i = grid_level(t, n)
        here, below = (self.sigma(level / max(n - 1, 1)) for level in (i, i - 1))
        return here, torch.where(i > 0, below, 0)

    def step(self, x: Tensor, t: Tensor, n: float) -> tuple[Tensor, Tensor]:
        here, below = self.grid_sigmas(t, n)
        return torch.zeros_like(x), (here**2 - below**2).sqrt()

    def ancestral(self, x: Tensor, t: Tensor, n: float, score: Tensor) -> tuple[Tensor, Tensor]:
        here, below = self.grid_sigmas(t, n)
        lost = here**2 - below**2
        return x + along(lost, x) * score, below * lost.sqrt() / here


class _Decaying(Process):
    """Base class of processes in which the factor m(t) of the data decreases, and the noise variance increases to 1."""

    prior_deviation = 1.0
    sampling_end = 1e-3

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        at_least(0, beta_min=beta_min)
        at_least(beta_min, beta_max=beta_max)
        positive(beta_max=beta_max)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def beta(self, t: Tensor) -> Tensor:
        """Compute beta(t)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """Compute B(t), the integral of beta."""
        return 0.5 * t**2 * (self.beta_max - self.beta_min) + t * self.beta_min

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        if slope == 0:
            return integral / self.beta_min
        return ((self.beta_min**2 + 2 * slope * integral).sqrt() - self.beta_min) / slope

    @abstractmethod
    def deviation(self, t: Tensor) -> Tensor:
        """Compute the standard deviation of the noise in x_t."""

    def kernel(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return along((-0.5 * self.integral(t)).exp(), clean) * clean, self.deviation(t)

    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        return (x + along(self.deviation(t) ** 2, x) * score) / along((-0.5 * self.integral(t)).exp(), x)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return along(-0.5 * self.beta(t), x) * x

    def grid_beta(self, t: Tensor, n: float) -> Tensor:
        """Compute beta_i on an equally spaced grid of n values from bmin / n to bmax / n; i is the index of time t."""
        return self.beta(grid_level(t, n) / max(n - 1, 1)) / n

    def langevin_scale(self, t: Tensor, n: float) -> Tensor:
        return 1 - self.grid_beta(t, n)


class VP(_Decaying):
    """The variance preserving (VP) process, which is the continuous-time limit of denoising diffusion (DDPM).

    Args:
        beta_min: beta(0), rate of the process at t = 0.
        beta_max: beta(1), rate of the process at t = 1.
    """

    def deviation(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def time_of(self, sigma: Tensor) -> Tensor:
        """Compute the time t at which the noise in x_t / m(t) has standard deviation sigma."""
        return self._time_of_integral(torch.log1p(sigma**2))

    def step(self, x: Tensor, t: Tensor, n: float) -> tuple[Tensor, Tensor]:
        beta = self.grid_beta(t, n)
        return along((1 - beta).sqrt() - 1, x) * x, beta.sqrt()

    def ancestral(self, x: Tensor, t: Tensor, n: float, score: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.grid_beta(t, n)
        return (x + along(beta, x) * score) / along((1 - beta).sqrt(), x), beta.sqrt()


class SubVP(_Decaying):
    """The sub-VP process.

    At all times, the variance of x_t is smaller than in the VP process. Models trained with the sub-VP process achieve
    higher likelihoods than models trained with the VP process.

    Args:
        beta_min: beta(0), rate of the process at t = 0.
        beta_max: beta(1), rate of the process at t = 1.
    """

    def deviation(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self.integral(t))).sqrt()

    def time_of(self, sigma: Tensor) -> Tensor:
        """Compute the time t at which the noise in x_t / m(t) has standard deviation sigma."""
        return self._time_of_integral(2 * torch.asinh(sigma / 2))
