"""Linear algebra that methods of several fields use, without a synchronisation with the host."""

import math

import torch
from torch import Tensor


def cholesky_factor(matrix: Tensor, shift: float | Tensor) -> Tensor:
    """Compute the lower Cholesky factor of A + s I for a positive semidefinite A.

    The result is NaN if the factorisation fails.
    """
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + shift * identity)
    return factor.masked_fill(failed > 0, math.nan)


def project_onto_ball(points: Tensor, radius: float) -> Tensor:
    """Project points `[..., d]` onto the ball around 0 with a given radius."""
    return points * (radius / points.norm(dim=-1, keepdim=True).clamp(min=radius))
