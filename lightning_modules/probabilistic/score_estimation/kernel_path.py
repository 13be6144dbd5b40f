"""Kernel gradient descent: one eigendecomposition gives all steps; and the stopping rule."""

import math
from bisect import bisect_left

import torch
from torch import Tensor

from lightning_modules.probabilistic.kernels import relu_moments


def tangent_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Compute k(z, z') = z.z' (pi - angle) / (2 pi) for rows `[N, p]` and `[M, p]`: `[N, M]`."""
    product = first @ second.T
    return product * relu_moments(first.square().sum(1)[:, None], second.square().sum(1), product)[1]


class KernelPath:
    """Gradient descent of least squares in the function space of a kernel, started from zero.

    Args:
        kernel: kernel matrix H at the training points, `[N, N]`, float64.
        eta: step size for the loss 1/2 sum |f - y|^2; None uses half of the maximum step size 1 / lambda_max(H).

    Raises:
        ValueError: if `eta` is larger than 1 / lambda_max(H).
    """

    def __init__(self, kernel: Tensor, eta: float | None = None) -> None:
        values, self.vectors = torch.linalg.eigh(kernel)
        self.values = values.clamp(min=0)
        largest = 1 / float(self.values[-1])
        if eta is not None and eta > largest * (1 + 1e-9):
            raise ValueError(f"eta must be at most 1 / lambda_max(H), {largest:.6g} for these data, got {eta}")
        self.eta = torch.tensor(0.5 * largest if eta is None else eta, dtype=kernel.dtype)

    def filters(self, steps: Tensor) -> Tensor:
        """Compute (1 - (1 - eta l)^n) / l for each n `[S]` and eigenvalue l, `[S, N]`.

        For l = 0, the result is the limit eta n.
        """
        power = -torch.expm1(torch.special.xlog1py(steps[:, None], (-self.eta * self.values).clamp(min=-1)))
        small = self.values < 1e-14 * self.values[-1]
        return torch.where(small, self.eta * steps[:, None], power / self.values.clamp(min=1e-300))

    def predictions(self, cross: Tensor, target: Tensor, steps: Tensor) -> Tensor:
        """Compute the predictions at other points after each number of steps.

        Args:
            cross: k(z, Z), `[M, N]`.
            target: y, `[N, d]`.
            steps: numbers of steps n, `[S]`, float64; infinity gives the interpolant if all eigenvalues are nonzero.

        Returns:
            `[S, M, d]`.
        """
        # One matrix product for all steps: `[N, S d]`.
        filtered = (self.filters(steps).T[:, :, None] * (self.vectors.T @ target)[:, None]).flatten(1)
        return ((cross @ self.vectors) @ filtered).unflatten(1, (len(steps), -1)).transpose(0, 1)


def stopping_step(eigenvalues: Tensor, eta: float, sigma: float, most: int) -> int:
    """Find the largest number of steps before the stopping rule applies; 0 if it applies at once.

    The two sides of the rule cross only once, since c R(c^(-1/2)) increases with c. Bisection finds the crossing.

    Args:
        eigenvalues: eigenvalues of the kernel matrix H, `[N]`.
        eta: step size.
        sigma: standard deviation of the label noise in each coordinate.
        most: maximum number of steps; it is returned if the rule does not stop earlier.
    """
    count = len(eigenvalues)

    def stops(n: int) -> bool:
        c = eta * count * n
        return float((eigenvalues / count).clamp(max=1 / c).mean().sqrt()) * 2 * math.e * sigma * c > 1

    return bisect_left(range(1, most + 1), True, key=stops)
