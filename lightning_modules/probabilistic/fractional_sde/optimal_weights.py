"""Optimal weights for approximating fractional Brownian motion by Ornstein-Uhlenbeck processes, in double precision.

    dY_k = -gamma_k Y_k dt + dW,   Bhat(t) = sum_k omega_k (Y_k(t) - Y_k(0)),   k = 1..K, one W for all k,

where omega = A^-1 b minimises (1 / T) int_0^T E (B - Bhat)^2 dt. Let alpha = H + 1/2, and let P and Q be the lower and
upper regularised incomplete gamma functions. For the types I and II,

    I:  A_ij = (2 T + (e^(-gamma_i T) - 1) / gamma_i + (e^(-gamma_j T) - 1) / gamma_j) / (gamma_i + gamma_j),
        b_k = 2 T / gamma_k^alpha - T^alpha / (gamma_k Gamma(alpha + 1))
              + (e^(-gamma_k T) - Q(alpha, gamma_k T) e^(gamma_k T)) / gamma_k^(alpha + 1);
    II: A_ij = (T + (e^(-(gamma_i + gamma_j) T) - 1) / (gamma_i + gamma_j)) / (gamma_i + gamma_j),
        b_k = T P(alpha, gamma_k T) / gamma_k^alpha - alpha P(alpha + 1, gamma_k T) / gamma_k^(alpha + 1).

B is the fractional Brownian motion that `datamodules.sequences.fractional_motion` defines. For type I, increments are
stationary, so Y(0) has the stationary distribution, whose covariance is 1 / (gamma_i + gamma_j). For type II, Y(0) is
0.
"""

import math

import torch
from torch import Tensor

from datamodules.arguments import one_of
from datamodules.sequences.fractional_motion import KINDS, Kind

SWITCH = 10.0
"""Above this z, a continued fraction gives Q(alpha, z) e^z; below this z, the series loses at most five digits."""
TERMS = 60
"""Number of terms of the series; for z up to `SWITCH`, the last term is below 1e-20 of the sum."""
LEVELS = 31
"""Odd number of continued-fraction levels. Above `SWITCH`, 31 levels give 15 digits, and the authors' 5 give 5."""


def speeds(num_processes: int, gamma_max: float) -> Tensor:
    """Compute K speeds, `[K]`, that form a geometric sequence around 1.

    The speeds are gamma_k = r^(k - (K + 1) / 2) with r = gamma_max^(2 / (K - 1)).
    """
    place = torch.arange(num_processes, dtype=torch.float64, device="cpu") - (num_processes - 1) / 2
    return (place * (2 * math.log(gamma_max) / (num_processes - 1))).exp()


def incomplete_gammas(alpha: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Compute P(alpha, z) and Q(alpha, z) e^z.

    Unlike PyTorch's incomplete gamma functions, the results are differentiable in alpha. Below `SWITCH`, P e^z = sum_n
    z^(alpha + n) / Gamma(alpha + n + 1). Above `SWITCH`, a continued fraction gives Q e^z without overflow or
    cancellation.

    Args:
        alpha: shape parameter of the incomplete gamma functions, positive, float64.
        z: argument of the functions, `[K]`, positive, float64.
    """
    small, large = z.clamp(max=SWITCH), z.clamp(min=SWITCH)  # clamping keeps both branches and their gradients finite
    n = torch.arange(TERMS, dtype=z.dtype, device=z.device)
    series = ((alpha + n) * small.log()[:, None] - torch.lgamma(alpha + n + 1)).exp().sum(dim=1)
    fraction = torch.zeros_like(z)
    for level in range(LEVELS, 1, -1):
        numerator = level // 2 - alpha if level % 2 == 0 else level // 2
        fraction = numerator / large / (1 + fraction)
    fraction = (alpha * large.log() - torch.lgamma(alpha)).exp() / large / (1 + fraction)
    upper = torch.where(z < SWITCH, small.exp() - series, fraction)
    return torch.where(z < SWITCH, series * (-small).exp(), 1 - fraction * (-large).exp()), upper


def normal_equations(gamma: Tensor, hurst: Tensor, horizon: float, kind: Kind) -> tuple[Tensor, Tensor]:
    """Compute the matrix A, `[K, K]`, and the vector b, `[K]`, of the optimal weights A^-1 b.

    Args:
        gamma: speeds, `[K]`, float64.
        hurst: Hurst index H in (0, 1), a scalar, float64.
        horizon: length T of the time interval over which the error is averaged.
        kind: type of the motion, `I` or `II`.
    """
    one_of(KINDS, kind=kind)
    alpha, pairs = hurst + 0.5, gamma[:, None] + gamma
    if kind == "I":
        decay = torch.expm1(-gamma * horizon) / gamma
        matrix = (2 * horizon + decay[:, None] + decay) / pairs
        _, upper = incomplete_gammas(alpha, gamma * horizon)
        power = (alpha * math.log(horizon) - torch.lgamma(alpha + 1)).exp()
        tail = ((-gamma * horizon).exp() - upper) / gamma ** (alpha + 1)
        return matrix, 2 * horizon / gamma**alpha - power / gamma + tail
    matrix = (horizon + torch.expm1(-pairs * horizon) / pairs) / pairs
    lower, _ = incomplete_gammas(alpha, gamma * horizon)
    next_lower, _ = incomplete_gammas(alpha + 1, gamma * horizon)
    return matrix, horizon * lower / gamma**alpha - alpha * next_lower / gamma ** (alpha + 1)


def optimal_weights(gamma: Tensor, hurst: Tensor, horizon: float, kind: Kind) -> Tensor:
    """Compute the optimal weights omega, `[K]`, differentiable in H; for the arguments, see `normal_equations`."""
    matrix, right = normal_equations(gamma, hurst, horizon, kind)
    return torch.linalg.solve_ex(matrix, right, check_errors=False).result  # does not synchronise with the host


def mean_squared_error(gamma: Tensor, omega: Tensor, hurst: Tensor, horizon: float, kind: Kind) -> Tensor:
    """Compute (1 / T) int_0^T E (B - Bhat)^2 dt for given weights; for the other arguments, see `normal_equations`.

    For type I, the authors' code returns a different value, because it lacks V_H and the factor 2 of the term with b.
    """
    matrix, right = normal_equations(gamma, hurst, horizon, kind)
    if kind == "I":
        unit = 1 / (torch.lgamma(2 * hurst + 1).exp() * (math.pi * hurst).sin())
    else:
        unit = (-2 * torch.lgamma(hurst + 0.5)).exp() / (2 * hurst)
    own = unit * horizon ** (2 * hurst + 1) / (2 * hurst + 1)
    return (omega @ matrix @ omega - 2 * right @ omega + own) / horizon
