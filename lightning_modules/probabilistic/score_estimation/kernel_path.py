"""Kernel gradient descent, computed for any number of steps from one eigendecomposition, and its stopping rule."""

import math
from bisect import bisect_left

import torch
from torch import Tensor

from lightning_modules.probabilistic.kernels import relu_moments


def relu_tangent_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Compute k(z, z') = z.z' (pi - angle) / (2 pi), `[N, M]`, for rows `[N, p]` and `[M, p]`."""
    product = first @ second.T
    return product * relu_moments(first.square().sum(1)[:, None], second.square().sum(1), product)[1]


class KernelPath:
    """Gradient descent on the squared error in the function space of a kernel, starting from zero.

    Args:
        kernel: kernel matrix H of the training points, `[N, N]`, float64.
        eta: step size for the loss 1/2 sum |f - y|^2; None means half of the maximum step size 1 / lambda_max(H).
    """

    def __init__(self, kernel: Tensor, eta: float | None = None) -> None:
        values, self.vectors = torch.linalg.eigh(kernel)
        self.values = values.clamp(min=0)
        largest = 1 / float(self.values[-1])
        if eta is not None and eta > largest * (1 + 1e-9):
            raise ValueError(f"eta must be at most 1 / lambda_max(H), which is {largest:.6g} for these data, got {eta}")
        self.eta = torch.tensor(0.5 * largest if eta is None else eta, dtype=kernel.dtype)

    def filters(self, steps: Tensor) -> Tensor:
        """Compute (1 - (1 - eta l)^n) / l for S values of n and N eigenvalues l; the result is `[S, N]`.

        For l = 0, the result is the limit eta n.
        """
        power = -torch.expm1(torch.special.xlog1py(steps[:, None], (-self.eta * self.values).clamp(min=-1)))
        small = self.values < 1e-14 * self.values[-1]
        return torch.where(small, self.eta * steps[:, None], power / self.values.clamp(min=1e-300))

    def predictions(self, cross: Tensor, target: Tensor, steps: Tensor) -> Tensor:
        """Compute the predictions for new points after each of several numbers of steps.

        Args:
            cross: kernel k(z, Z) between the new points and the training points, `[M, N]`.
            target: training labels y, `[N, d]`.
            steps: numbers of steps n, `[S]`, float64; infinity gives the interpolant of the labels if all eigenvalues
                are nonzero.

        Returns:
            The predictions, `[S, M, d]`.
        """
        # A single matrix product computes all numbers of steps; the coefficients are `[N, S d]`.
        filtered = (self.filters(steps).T[:, :, None] * (self.vectors.T @ target)[:, None]).flatten(1)
        return ((cross @ self.vectors) @ filtered).unflatten(1, (len(steps), -1)).transpose(0, 1)


def stopping_step(eigenvalues: Tensor, eta: float, sigma: float, most: int) -> int:
    """Return the number of steps after which the stopping rule stops training; 0 means before the first step.

    Let R(c^(-1/2)) be the left side of the rule's inequality. Because c R(c^(-1/2)) increases with c, both sides are
    equal for only one value of c, and bisection finds this value.

    Args:
        eigenvalues: eigenvalues of the kernel matrix H, `[N]`.
        eta: step size.
        sigma: standard deviation of the label noise in each coordinate.
        most: maximum number of steps; returned if the rule does not stop training earlier.
    """
    count = len(eigenvalues)

    def stops(n: int) -> bool:
        c = eta * count * n
        return float((eigenvalues / count).clamp(max=1 / c).mean().sqrt()) * 2 * math.e * sigma * c > 1

    return bisect_left(range(1, most + 1), True, key=stops)
