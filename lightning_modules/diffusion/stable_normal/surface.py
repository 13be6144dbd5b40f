"""Reconstruct surfaces: compute height maps from surface normals by least squares.

    minimise  sum_{i,j} (z_{i,j+1} - z_{i,j} - (p_{i,j} + p_{i,j+1}) / 2)^2
                      + (z_{i+1,j} - z_{i,j} - (q_{i,j} + q_{i+1,j}) / 2)^2,   p = -n_x / n_z,  q = n_y / n_z.

Here n is a surface normal. The row index i increases downwards, and the coordinate y increases upwards. The camera is
orthographic. Heights z are in pixels, increase towards the viewer, and have mean zero. The normal equations of this
least-squares problem are Poisson's equation with Neumann boundary conditions. The discrete cosine transform solves them
exactly, because it diagonalises them with eigenvalues 4 - 2 cos(pi k / H) - 2 cos(pi l / W).

Source: Simchony, Chellappa and Shao, Direct Analytical Methods for Solving Poisson Equations in Computer Vision
Problems, IEEE TPAMI 1990, after Frankot and Chellappa, IEEE TPAMI 1988.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_FACING = 0.1
"""Lower bound of n_z. Steeper surfaces, and those facing away, are treated as if they had this slope (84 degrees)."""


def cosine_transform(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the matrix of the orthonormal DCT-II, and the eigenvalues 2 - 2 cos(pi k / size).

    Args:
        size: number of samples of the transformed signal.
        like: tensor with the dtype and device of the results.

    Returns:
        The matrix, `[size, size]`, and the eigenvalues, `[size]`.
    """
    at = torch.arange(size, dtype=like.dtype, device=like.device)
    basis = torch.cos(math.pi / size * at[:, None] * (at + 0.5)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis, 2 - 2 * torch.cos(math.pi / size * at)


def heights(normal: Tensor) -> Tensor:
    """Integrate unit normals, `[..., 3, H, W]`, to heights, `[..., H, W]`; pixels without a normal count as flat."""
    x, y, z = normal.unbind(dim=-3)
    facing = z.clamp(min=LEAST_FACING)
    right, down = -x / facing, y / facing
    across = F.pad((right[..., 1:] + right[..., :-1]) / 2, (1, 1))
    along = F.pad((down[..., 1:, :] + down[..., :-1, :]) / 2, (0, 0, 1, 1))
    divergence = -across.diff(dim=-1) - along.diff(dim=-2)
    rows, of_rows = cosine_transform(z.shape[-2], z)
    columns, of_columns = cosine_transform(z.shape[-1], z)
    eigenvalues = of_rows[:, None] + of_columns
    eigenvalues[0, 0] = math.inf  # the equations do not determine the mean height
    return rows.T @ (rows @ divergence @ columns.T / eigenvalues) @ columns
