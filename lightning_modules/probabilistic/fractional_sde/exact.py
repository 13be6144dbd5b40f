"""Covariances of linear stochastic differential equations, and the minimum loss of a bridge with a linear drift.

All results are computed exactly, without sampling paths. With drift -theta x and diffusion 1, all distributions are
Gaussian. The state Z = (X, Y_1, ..., Y_K) follows dZ = M Z dt + c dW, and for a time step h

    Cov Z(t + h) = e^(M h) Cov Z(t) e^(M h)^T + Q,   Q = int_0^h e^(M v) c c^T e^(M v)^T dv,
    Cov(Z(t + h), Z(s)) = e^(M h) Cov(Z(t), Z(s)) for s <= t.

The exponential of a single matrix, with twice as many rows as M, gives both e^(M h) and Q (Van Loan, Computing
Integrals Involving the Matrix Exponential, IEEE Transactions on Automatic Control 1978).
"""

import torch
from torch import Tensor

from lightning_modules.probabilistic.fractional_sde.noise import Noise


def path_covariance(noise: Noise, theta: float, interval: float, num_times: int) -> Tensor:
    """Compute the covariance of X at F equidistant times, `[F, F]`, for dX = -theta X dt + dBhat and X(0) = 0.

    Args:
        noise: noise that drives the equation, a weighted sum of Ornstein-Uhlenbeck processes.
        theta: strength of the mean reversion towards 0.
        interval: difference between two successive times.
        num_times: number of times F, including time 0.
    """
    gamma, omega, start = (part.detach().cpu().double() for part in (noise.gamma, noise.omega(), noise.start_factor))
    size = 1 + len(gamma)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[0, 0], matrix[0, 1:], matrix[1:, 1:] = -theta, -gamma * omega, torch.diag(-gamma)
    kick = torch.cat([omega.sum()[None], torch.ones_like(gamma)])
    double = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
    double[:size, :size], double[:size, size:], double[size:, size:] = -matrix, torch.outer(kick, kick), matrix.T
    exponential = torch.linalg.matrix_exp(double * interval)
    onward = exponential[size:, size:].T
    added = onward @ exponential[:size, size:]
    state = torch.block_diag(torch.zeros(1, 1, dtype=torch.float64), start @ start.T)
    covariance = torch.zeros(num_times, num_times, dtype=torch.float64)
    across = torch.zeros(size, 0, dtype=torch.float64)  # covariances between the current Z and X at all earlier times
    for now in range(num_times):
        across = torch.cat([onward @ across, state[:, :1]], dim=1)
        covariance[now, : now + 1] = covariance[: now + 1, now] = across[0]
        state = onward @ state @ onward.T + added
    return covariance


def least_loss(covariance: Tensor, observed: Tensor, sigma: Tensor) -> Tensor:
    """Compute the lower bound -log E exp(-sum_f (X_f - x_f)^2 / (2 sigma_f^2)) on the loss of a bridge.

    For a single observation with the value 0, the result is log(1 + K / sigma^2) / 2, where K is the variance of X at
    the time of the observation.

    Args:
        covariance: covariance matrix of X at F times, `[F, F]`, float64.
        observed: observed values x, `[F]`.
        sigma: standard deviation of the observation at each time, `[F]`; infinity marks times without an observation.
    """
    seen = sigma.isfinite()
    x, noise = observed[seen], sigma[seen].square()
    whole = covariance[seen][:, seen] + torch.diag(noise)
    return 0.5 * (torch.logdet(whole) - noise.log().sum() + x @ torch.linalg.solve(whole, x))
