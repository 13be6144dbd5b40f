"""Kernels of infinitely wide networks: what Gaussian weights make of pairs of inputs.

For a pair (u, v) of normal numbers with variances a, b and covariance c,

    E[relu(u) relu(v)] = sqrt(a b) (sin t + (pi - t) cos t) / (2 pi),    E[relu'(u) relu'(v)] = (pi - t) / (2 pi),

with the angle t = arccos(c / sqrt(a b)): the arc-cosine kernels.

Source: Cho and Saul, Kernel Methods for Deep Learning, NeurIPS 2009.
"""

import math

import torch
from torch import Tensor


def relu_moments(first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute E[relu(u) relu(v)] and E[relu'(u) relu'(v)] of all pairs.

    Args:
        first: variances a of u, positive, `[N]`.
        second: variances b of v, positive, `[M]`.
        covariance: c, `[N, M]`.

    Returns:
        Both `[N, M]`; without gradients at pairs of equal or opposite inputs.
    """
    product = (first[:, None] * second).sqrt()
    cosine = (covariance / product).clamp(-1, 1)
    # An angle near 0 is lost in its cosine; where rounding alone parts a pair, the angle is 0.
    cosine = torch.where(cosine > 1 - 4 * torch.finfo(cosine.dtype).eps, torch.ones_like(cosine), cosine)
    angle = cosine.arccos()
    derivative = (math.pi - angle) / (2 * math.pi)
    return product * ((1 - cosine**2).sqrt() / (2 * math.pi) + derivative * cosine), derivative
