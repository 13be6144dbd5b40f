"""Exact fractional Brownian motion: compute covariances, and sample paths with these covariances.

The covariances are, with alpha = H + 1/2 and for s <= t,

    I:  E B(s) B(t) = V_H (s^(2H) + t^(2H) - (t - s)^(2H)) / 2,   V_H = 1 / (Gamma(2H + 1) sin(pi H));
    II: E B(s) B(t) = s^alpha t^(alpha - 1) F(1, 1 - alpha; alpha + 1; s / t) / (Gamma(alpha) Gamma(alpha + 1)).

Type I (Mandelbrot and Van Ness) has stationary increments. Type II (Riemann and Liouville) is the integral of (t -
v)^(H - 1/2) / Gamma(alpha) with respect to white noise, starting at time 0. With V_H, the integral of
type I has the same factor 1 / Gamma(alpha).

Source: Marinucci and Robinson, Alternative Forms of Fractional Brownian Motion, Journal of Statistical Planning and
Inference 1999.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from scipy.special import gamma, hyp2f1
from torch import Tensor

Kind = Literal["I", "II"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FINE = 1000
"""Smallest number of steps for the numerical integration of the mean-reversion term."""


def motion_covariance(time: Tensor, hurst: float, kind: Kind) -> Tensor:
    """Compute the covariance of fractional Brownian motion at the given times.

    Args:
        time: times `[F]`, at least 0, float64.
        hurst: Hurst index H, in (0, 1).
        kind: type of the motion, `I` or `II`.

    Returns:
        Covariance matrix `[F, F]`, float64.
    """
    s, t = torch.minimum(time[:, None], time), torch.maximum(time[:, None], time)
    if kind == "I":
        unit = 1 / (math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst))
        return unit / 2 * (s ** (2 * hurst) + t ** (2 * hurst) - (t - s) ** (2 * hurst))
    alpha = hurst + 0.5
    early, late = s.numpy(), np.where(t.numpy() > 0, t.numpy(), 1.0)
    shape = hyp2f1(1, 1 - alpha, alpha + 1, early / late) / (gamma(alpha) * gamma(alpha + 1))
    return torch.from_numpy(early**alpha * late ** (alpha - 1) * shape)


def pulled_covariance(interval: float, num_times: int, hurst: float, kind: Kind, theta: float) -> Tensor:
    """Compute the covariance matrix of X at equally spaced times, where dX = -theta X dt + dB and X(0) = 0.

    B is interpolated linearly on a fine grid. For theta = 0, the result is exact.

    Args:
        interval: time between successive times of the result.
        num_times: number of times of the result, F. The first time is 0.
        hurst: Hurst index H, in (0, 1).
        kind: type of the motion, `I` or `II`.
        theta: rate of mean reversion towards 0, at least 0.

    Returns:
        Covariance matrix `[F, F]`, float64.
    """
    fine = 1 if theta == 0 else -(-FINE // (num_times - 1))
    h = interval / fine
    step = torch.arange((num_times - 1) * fine + 1, dtype=torch.float64)
    covariance = motion_covariance(step * h, hurst, kind)
    if theta == 0:
        return covariance
    since = step[::fine, None] - step[1:]  # number of steps from the end of an increment to an output time
    decay = torch.where(since >= 0, (-theta * h * since).exp(), 0) * (-math.expm1(-theta * h) / (theta * h))
    increments = covariance.diff(dim=0).diff(dim=1)
    return decay @ increments @ decay.T


def posterior_std(covariance: Tensor, sigma: Tensor) -> Tensor:
    """Compute the posterior standard deviation `[F]` of a Gaussian path at each time, given noisy observations.

    Args:
        covariance: covariance matrix of the path, `[F, F]`, float64.
        sigma: standard deviation of the observation error at each time, `[F]`, float64. It is infinite at times without
            an observation.
    """
    seen = sigma.isfinite()
    across = covariance[:, seen]
    whole = across[seen] + torch.diag(sigma[seen].square())
    explained = (across * torch.linalg.solve(whole, across.T).T).sum(dim=1)
    return (covariance.diagonal() - explained).clamp(min=0).sqrt()


def drawn_paths(covariance: Tensor, normal: Tensor) -> Tensor:
    """Compute Gaussian paths that start at 0 from standard normal numbers.

    Args:
        covariance: covariance matrix of a path, `[F, F]`, float64. Its first row is 0.
        normal: standard normal numbers, `[..., F - 1, D]`.

    Returns:
        Paths `[..., F, D]`, float64.
    """
    factor = torch.linalg.cholesky(covariance[1:, 1:])
    return torch.nn.functional.pad(factor @ normal.double(), (0, 0, 1, 0))
