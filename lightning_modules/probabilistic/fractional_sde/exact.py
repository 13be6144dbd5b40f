"""The covariance of linear equations, and the least loss that a control of theirs can reach: no path is drawn.

All is Gaussian where the drift is -theta x and the diffusion is 1. The state Z = (X, Y_1, ..., Y_K) then follows
dZ = M Z dt + c dW, and over a time h

    Cov Z(t + h) = e^(M h) Cov Z(t) e^(M h)^T + Q,   Q = int_0^h e^(M v) c c^T e^(M v)^T dv,
    Cov(Z(t + h), Z(s)) = e^(M h) Cov(Z(t), Z(s)) for s <= t.

One exponential of a matrix of twice the size gives both e^(M h) and Q (Van Loan, Computing Integrals Involving the
Matrix Exponential, IEEE Transactions on Automatic Control 1978).
"""

import torch
from torch import Tensor

from lightning_modules.probabilistic.fractional_sde.noise import Noise


def path_covariance(noise: Noise, theta: float, interval: float, num_times: int) -> Tensor:
    """Compute the covariance of X at equally distant times, `[F, F]`, where dX = -theta X dt + dBhat and X(0) = 0.

    Args:
        noise: the weighted processes.
        theta: pull to 0.
        interval: time between two of the times.
        num_times: F, of which the first one is 0.
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
    across = torch.zeros(size, 0, dtype=torch.float64)  # of Z now with X at each time so far
    for now in range(num_times):
        across = torch.cat([onward @ across, state[:, :1]], dim=1)
        covariance[now, : now + 1] = covariance[: now + 1, now] = across[0]
        state = onward @ state @ onward.T + added
    return covariance


def least_loss(covariance: Tensor, observed: Tensor, sigma: Tensor) -> Tensor:
    """Compute -log E exp(-sum_f (X_f - x_f)^2 / (2 sigma_f^2)), which the loss of a bridge cannot fall below.

    For one observation of 0 it is log(1 + K / sigma^2) / 2, where K is the variance there.

    Args:
        covariance: of X, `[F, F]`, float64.
        observed: x, `[F]`.
        sigma: `[F]`, infinite at times without an observation.
    """
    seen = sigma.isfinite()
    x, noise = observed[seen], sigma[seen].square()
    whole = covariance[seen][:, seen] + torch.diag(noise)
    return 0.5 * (torch.logdet(whole) - noise.log().sum() + x @ torch.linalg.solve(whole, x))
