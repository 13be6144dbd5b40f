"""A process given what was seen of it: factors, solutions, means and variances."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Seen(NamedTuple):
    """Factor and solution of the training rows."""

    factor: Tensor
    """Lower Cholesky factor of K + jitter I, `[n, n]`."""
    solved: Tensor
    """K^-1 y, `[n]`."""
    quadratic: Tensor
    """y^T K^-1 y."""
    log_det: Tensor
    """log det K."""


def factorised(kernel: Tensor, jitter: Tensor) -> Tensor:
    """Give the lower Cholesky factor of K + jitter I, without waiting for the device; NaN where there is none."""
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    factor, failed = torch.linalg.cholesky_ex(kernel + jitter * identity)
    return factor.masked_fill(failed > 0, math.nan)


def seen(kernel: Tensor, target: Tensor, jitter: Tensor) -> Seen:
    """Factorise K + jitter I and solve for the targets.

    Args:
        kernel: `[n, n]`.
        target: y, `[n]`.
        jitter: a number.
    """
    factor = factorised(kernel, jitter)
    solved = torch.cholesky_solve(target[:, None], factor)[:, 0]
    return Seen(factor, solved, target @ solved, 2 * factor.diagonal().log().sum())


def predicted(known: Seen, cross: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance, at the scale 1, of the process at other points.

    Args:
        known: of the training rows.
        cross: kernel of the training rows and the points, `[n, m]`.
        variance: kernel of each point with itself, `[m]`.

    Returns:
        K_*^T K^-1 y and K_** - K_*^T K^-1 K_*, both `[m]`.
    """
    half = torch.linalg.solve_triangular(known.factor, cross, upper=False)
    return cross.T @ known.solved, variance - half.square().sum(0)
