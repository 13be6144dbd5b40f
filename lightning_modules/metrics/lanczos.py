"""Lanczos' method with full re-orthogonalisation: extreme eigenvalues and spectral density of a symmetric matrix.

    H Q = Q T + remainder,   T = U diag(theta) U^T,   weights gamma_i = U_1i^2

The iteration starts from a unit vector q, and accesses H only through products H v. After m steps, the columns of Q are
an orthonormal basis, and T is a tridiagonal m x m matrix. The Ritz values theta_i and the weights gamma_i are the nodes
and weights of a Gauss quadrature, q^T f(H) q ~ sum_i gamma_i f(theta_i), which is exact for polynomials f of degree
below 2m.

Source: Golub and Meurant, Matrices, Moments and Quadrature, 1994; Granziol et al., JMLR 2022, arXiv 2006.09092.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of


class Spectrum(NamedTuple):
    """Ritz values theta, and their weights gamma for a starting vector."""

    values: Tensor
    """Values theta, `[m]`, float64 on the CPU, in ascending order."""
    weights: Tensor
    """Weights gamma, `[m]`, float64 on the CPU; their sum is 1."""


def unit_vector(size: int, *seed: int, like: Tensor) -> Tensor:
    """Sample a random unit vector `[size]`, the same on all ranks, with the dtype and device of `like`."""
    drawn = torch.randn(size, generator=generator_of(*seed), dtype=torch.float64)
    return (drawn / drawn.norm()).to(like)


@torch.no_grad()
def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Spectrum:
    """Run Lanczos steps, each with one product H v. Stop earlier if the dimension of the Krylov space is below `steps`.

    Args:
        product: function that computes H v for a symmetric H; its result must be the same on all ranks.
        start: q, a unit vector `[P]`. A basis `[steps, P]` is kept in memory.
        steps: m, number of steps; at most P steps are run.
    """
    steps = min(steps, len(start))
    basis = start.new_zeros(steps, len(start))
    basis[0] = start
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(steps):
        new = product(basis[step])
        diagonal.append(float(new @ basis[step]))
        for _ in range(2):  # two passes of orthogonalisation are sufficient
            new = new - basis[: step + 1].T @ (basis[: step + 1] @ new)
        norm, size = float(new.norm()), max(map(abs, [*diagonal, *off_diagonal]))
        if step + 1 == steps or norm <= 10 * torch.finfo(new.dtype).eps * size:
            break
        off_diagonal.append(norm)
        basis[step + 1] = new / norm
    beside = torch.tensor(off_diagonal, dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(beside, 1) + torch.diag(beside, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return Spectrum(values, vectors[0] ** 2)


def spectral_density(spectra: Sequence[Spectrum], at: Tensor, width: float) -> Tensor:
    """Compute the spectral density by stochastic Lanczos quadrature.

    The density at x is the mean of sum_i gamma_i N(x; theta_i, width^2) over starting vectors.

    Args:
        spectra: results, one for each starting vector.
        at: x, `[n]`, float64.
        width: standard deviation of the Gaussian that replaces each Ritz value.
    """

    def smoothed(spectrum: Spectrum) -> Tensor:
        distance = (at[:, None] - spectrum.values) / width
        return (spectrum.weights * (-(distance**2) / 2).exp()).sum(dim=1) / (width * math.sqrt(2 * math.pi))

    return torch.stack([smoothed(spectrum) for spectrum in spectra]).mean(dim=0)
