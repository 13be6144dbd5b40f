"""A process that is known by its values at inducing inputs, with one random scale for all classes.

    q(u_c | s) = N(mu_c, s diag(S_c)),    q(s) = inverse gamma(a, b),    prior: u_c | s ~ N(0, s K_ZZ), s ~ inverse
    gamma(alpha, beta). With A = K_bZ K_ZZ^-1 and B = K_bb - A K_Zb the process is, given s,

        f_c ~ N(A mu_c, s (A diag(S_c) A^T + B)),

of which a likelihood that is a product over points needs each point's variance alone.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.probabilistic.scale_mixture_nngp.scales import InverseGammaLaw


class Projection(NamedTuple):
    """The law of values at points, given those at inducing inputs."""

    weight: Tensor
    """A, `[B, M]`."""
    residual: Tensor
    """Diagonal of B, not negative, `[B]`."""


def projection(factor: Tensor, cross: Tensor, variance: Tensor) -> Projection:
    """Condition the process on its values at the inducing inputs.

    Args:
        factor: lower Cholesky factor of K_ZZ, `[M, M]`.
        cross: K_Zb, `[M, B]`.
        variance: diagonal of K_bb, `[B]`.
    """
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    weight = torch.linalg.solve_triangular(factor.T, half, upper=True).T
    return Projection(weight, (variance - half.square().sum(0)).clamp(min=0))


def marginals(at: Projection, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance at the scale 1 of each class at each point, `[B, C]`, from mu and S, `[C, M]`."""
    return at.weight @ mean.T, at.weight.square() @ spread.T + at.residual[:, None]


def inducing_divergence(factor: Tensor, mean: Tensor, spread: Tensor, precision: Tensor | float) -> Tensor:
    """Compute the divergence of q(u | s) from the prior, averaged over q(s).

    Args:
        factor: lower Cholesky factor of K_ZZ, `[M, M]`.
        mean: mu, `[C, M]`.
        spread: S, positive, `[C, M]`.
        precision: E[1 / s], a / b, or 1 where the scale is 1.
    """
    classes, inducing = mean.shape
    inverse = torch.cholesky_inverse(factor)
    log_dets = classes * 2 * factor.diagonal().log().sum() - spread.log().sum()
    square = torch.linalg.solve_triangular(factor, mean.T, upper=False).square().sum()
    return (log_dets - classes * inducing + (spread @ inverse.diagonal()).sum() + precision * square) / 2


def scale_divergence(q: InverseGammaLaw, alpha: float, beta: float) -> Tensor:
    """Compute the divergence of an inverse gamma law from that with alpha and beta."""
    constants = alpha * torch.log(q.b / beta) - torch.lgamma(q.a) + math.lgamma(alpha)
    return constants + (q.a - alpha) * torch.digamma(q.a) + (beta - q.b) * q.a / q.b
