"""Projections onto a ball around the origin, in the Euclidean norm and in the norm of a positive definite matrix.

Both projections accept tensors or NumPy arrays. For vectors with few entries on the CPU, NumPy is several times faster.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.linear_algebra import project_onto_ball

CANDIDATES = 64
"""Number of parts into which each round divides the search interval; nine rounds reach rounding precision."""


def squared_norm(x: Any) -> Any:
    """Compute ||x||^2 for a vector x, `[d]`.

    The result is a tensor if x is a tensor, and a Python number if x is a NumPy array.
    """
    return x.square().sum() if isinstance(x, Tensor) else float(x.dot(x))


def project_points(x: Any, radius: float) -> Any:
    """Project points `[..., d]` onto the ball with the given radius around the origin."""
    if isinstance(x, np.ndarray):
        if x.ndim > 1:
            return x * (radius / np.maximum(np.sqrt(np.einsum("...d,...d->...", x, x)), radius))[..., None]
        norm = math.sqrt(squared_norm(x))
        return x if norm <= radius else x * (radius / norm)
    return project_onto_ball(x, radius)


def project_in_norm(x: Any, h: Any, radius: float) -> Any:
    """Compute the point y in the ball that minimises (y - x)^T H (y - x).

    The point y satisfies (H + nu I) y = H x for some nu >= 0, and ||y|| decreases as nu increases. A search finds the
    nu for which ||y|| = radius. The search starts with the interval from 0 to ||H x|| / radius, and repeatedly divides
    the interval into many parts. On the CPU, a point x inside the ball is returned without a search. On a GPU, this
    check is omitted, because it would synchronise with the host.

    Args:
        x: point to project, `[d]`.
        h: matrix H, `[d, d]`, positive definite.
        radius: radius of the ball around the origin.
    """
    if isinstance(x, np.ndarray):
        return project_in_norm(torch.from_numpy(x), torch.from_numpy(h), radius).numpy()
    if x.device.type == "cpu" and x.norm() <= radius:
        return x
    values, vectors = torch.linalg.eigh(h)
    rotated = values * (vectors.T @ x)
    low = torch.zeros_like(x[0])
    width = torch.where(x.norm() > radius, rotated.norm() / radius, 0.0)
    parts = torch.linspace(0, 1, CANDIDATES + 1, dtype=x.dtype, device=x.device)
    for _ in range(9):
        tried = low + width * parts
        outside = (rotated / (values + tried[:, None])).norm(dim=1) > radius
        low = tried.take((outside.sum() - 1).clamp(min=0))
        width = width / CANDIDATES
    return vectors @ (rotated / (values + low + width))
