"""Noise that drives an SDE: a weighted sum of Ornstein-Uhlenbeck processes with a common Brownian motion."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.randomness.shared_batches import sample_rows
from datamodules.sequences.fractional_motion import KINDS, Kind
from lightning_modules.full_precision import in_full_precision
from lightning_modules.probabilistic.fractional_sde.optimal_weights import optimal_weights, speeds


class Noise(nn.Module, ABC):
    """The noise Bhat(t) = sum_k omega_k (Y_k(t) - Y_k(0)), where dY_k = -gamma_k Y_k dt + dW with one W for all k.

    Args:
        gamma: mean-reversion speeds of the processes, `[K]`, float64.
        stationary: whether Y(0) has the stationary distribution; if false, Y(0) is 0.
    """

    gamma: Tensor
    start_factor: Tensor
    """Matrix S, `[K, K]`, float64; S S^T is the covariance of Y(0)."""

    def __init__(self, gamma: Tensor, stationary: bool) -> None:
        super().__init__()
        self.num_processes = len(gamma)
        self.gamma_max = float(gamma.max())
        self.stationary = stationary
        covariance = 1 / (gamma[:, None] + gamma) if stationary else torch.zeros(len(gamma), len(gamma), device="cpu")
        values, vectors = torch.linalg.eigh(covariance.double())  # a Cholesky factorisation fails if K is large
        self.register_buffer("gamma", gamma, persistent=False)
        self.register_buffer("start_factor", vectors * values.clamp(min=0).sqrt(), persistent=False)

    @abstractmethod
    def hurst(self) -> Tensor:
        """Return the Hurst index H, a scalar in float64."""

    @abstractmethod
    def omega(self) -> Tensor:
        """Return the weights of the processes, `[K]`, in float64."""

    def start(self, x: Tensor) -> Tensor:
        """Sample Y(0), `[B, D, K]`, for B paths that start at x, `[B, D]`."""
        shape = (*x.shape, self.num_processes)
        if not self.stationary:
            return x.new_zeros(shape)
        normal = sample_rows(torch.randn, shape, x.device, dtype=x.dtype)
        with in_full_precision(x.device):
            return normal @ self.start_factor.T.to(x.dtype)


class FractionalNoise(Noise):
    """Fractional Brownian motion, approximated by K Ornstein-Uhlenbeck processes (MA-fBM).

    The weights are always computed in double precision, because they solve ill-conditioned linear equations. In single
    precision, their error would be 1e-4 for K = 5 and 0.03 for K = 10.

    Args:
        hurst: Hurst index H, in (0, 1); None makes H a learned parameter with the initial value 0.5.
        kind: type of the motion. Type `I` has stationary increments (Mandelbrot and Van Ness). Type `II` starts at time
            0 and does not depend on earlier noise (Riemann and Liouville).
        num_processes: number of processes K, at least 2.
        gamma_max: speed of the fastest process, above 1; the slowest process has the speed 1 / gamma_max. The
            integration step must be shorter than 0.5 / gamma_max.
        horizon: length T of the time interval over which the weights minimise the mean squared error.
    """

    fixed_hurst: Tensor
    fixed_omega: Tensor

    def __init__(
        self,
        hurst: float | None = None,
        kind: Kind = "I",
        num_processes: int = 5,
        gamma_max: float = 20.0,
        horizon: float = 6.0,
    ) -> None:
        within(0, 1, "()", hurst=hurst)
        one_of(KINDS, kind=kind)
        at_least(2, num_processes=num_processes)
        within(1, float("inf"), "()", gamma_max=gamma_max)
        positive(horizon=horizon)
        super().__init__(speeds(num_processes, gamma_max), stationary=kind == "I")
        self.kind: Kind = kind
        self.horizon = horizon
        self.hurst_raw = nn.Parameter(torch.zeros(())) if hurst is None else None
        if hurst is not None:
            fixed = torch.tensor(hurst, dtype=torch.float64, device="cpu")
            self.register_buffer("fixed_hurst", fixed, persistent=False)
            self.register_buffer("fixed_omega", optimal_weights(self.gamma, fixed, horizon, kind), persistent=False)

    def hurst(self) -> Tensor:
        return self.fixed_hurst if self.hurst_raw is None else self.hurst_raw.double().sigmoid()

    def omega(self) -> Tensor:
        if self.hurst_raw is None:
            return self.fixed_omega
        with in_full_precision(self.gamma.device):
            return optimal_weights(self.gamma, self.hurst(), self.horizon, self.kind)


class BrownianNoise(Noise):
    """Brownian motion, written as a single process with gamma = 0 and omega = 1.

    This noise is the baseline for fractional noise.
    """

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, dtype=torch.float64, device="cpu"), stationary=False)

    def hurst(self) -> Tensor:
        return torch.full_like(self.gamma[0], 0.5)

    def omega(self) -> Tensor:
        return torch.ones_like(self.gamma)
