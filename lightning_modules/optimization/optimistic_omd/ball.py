"""Projection onto a ball around the origin, in the Euclidean norm and in the norm of a positive definite matrix.

Both projections accept tensors or NumPy arrays. For a few numbers on the CPU, NumPy is several times faster.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

CANDIDATES = 64
"""Number of parts of an interval tested at once; nine rounds reach rounding precision."""


def squared_norm(x: Any) -> Any:
    """Compute ||x||^2 of x `[d]`.

    The result is a tensor for a tensor, and a plain number for an array.
    """
    return x.square().sum() if isinstance(x, Tensor) else float(x @ x)


def project(x: Any, radius: float) -> Any:
    """Project points `[..., d]` onto the ball."""
    if isinstance(x, np.ndarray):
        if x.ndim > 1:
            return x * (radius / np.maximum(np.sqrt(np.einsum("...d,...d->...", x, x)), radius))[..., None]
        norm = math.sqrt(squared_norm(x))
        return x if norm <= radius else x * (radius / norm)
    return x * (radius / x.norm(dim=-1, keepdim=True).clamp(min=radius))


def project_in_norm(x: Any, h: Any, radius: float) -> Any:
    """Find the point y of the ball that minimises (y - x)^T H (y - x).

    It solves (H + nu I) y = H x with nu >= 0. The norm ||y|| decreases with nu. A search finds nu with ||y|| = radius.
    It divides the interval from 0 to ||H x|| / radius into many parts. On the CPU, points inside the ball are returned
    at once. On a GPU, this check would synchronise, so it is omitted.

    Args:
        x: `[d]`.
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
