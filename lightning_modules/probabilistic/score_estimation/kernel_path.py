"""Gradient descent in the tangent kernel's space: all steps of it from one eigendecomposition, and when to stop."""

import math

import torch
from torch import Tensor

from lightning_modules.probabilistic.kernels import relu_moments


def tangent_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Compute k(z, z') = z.z' (pi - angle) / (2 pi) of rows `[N, p]` and `[M, p]`: `[N, M]`."""
    product = first @ second.T
    return product * relu_moments(first.square().sum(1)[:, None], second.square().sum(1), product)[1]


class KernelPath:
    """Gradient descent of least squares in a kernel's space, started from zero.

    Args:
        kernel: H at the training points, `[N, N]`, float64.
        eta: step size of the loss 1/2 sum |f - y|^2; None takes half of the largest one, 1 / lambda_max(H).
    """

    def __init__(self, kernel: Tensor, eta: float | None = None) -> None:
        values, self.vectors = torch.linalg.eigh(kernel)
        self.values = values.clamp(min=0)
        self.eta = 0.5 / self.values[-1] if eta is None else torch.tensor(eta, dtype=kernel.dtype)

    def filters(self, steps: Tensor) -> Tensor:
        """Compute (1 - (1 - eta l)^n) / l for each of n `[S]` and each eigenvalue l: `[S, N]`; eta n where l is 0."""
        power = -torch.expm1(steps[:, None] * torch.log1p(-self.eta * self.values))
        small = self.values < 1e-14 * self.values[-1]
        return torch.where(small, self.eta * steps[:, None], power / self.values.clamp(min=1e-300))

    def predictions(self, cross: Tensor, target: Tensor, steps: Tensor) -> Tensor:
        """Give the values at other points after each number of steps.

        Args:
            cross: k(z, Z), `[M, N]`.
            target: y, `[N, d]`.
            steps: n, `[S]`, float64; infinity has the interpolant, as far as eigenvalues are not 0.

        Returns:
            `[S, M, d]`.
        """
        # One product of matrices for all steps: `[N, S d]`.
        filtered = (self.filters(steps).T[:, :, None] * (self.vectors.T @ target)[:, None]).flatten(1)
        return ((cross @ self.vectors) @ filtered).unflatten(1, (len(steps), -1)).transpose(0, 1)


def stopping_step(eigenvalues: Tensor, eta: float, sigma: float, steps: Tensor) -> int:
    """Find the last number of steps before the rule stops; 0 if it stops at once.

    Args:
        eigenvalues: of H, `[N]`.
        eta: step size.
        sigma: standard deviation of the label noise in each coordinate.
        steps: numbers of steps that are tried, `[S]`, growing from 1 on.
    """
    count = len(eigenvalues)
    c = eta * count * steps
    complexity = torch.minimum(eigenvalues / count, 1 / c[:, None]).mean(1).sqrt()
    stops = complexity > 1 / (2 * math.e * sigma * c)
    if not stops.any():
        return int(steps[-1])
    first = int(stops.int().argmax())
    return int(steps[first]) - 1
