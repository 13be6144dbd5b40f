"""Kernels of infinitely wide networks: what Gaussian weights make of pairs of inputs.

For a pair (u, v) of normal numbers with variances a, b and covariance c, with the angle t = arccos(c / sqrt(a b)),

    E[relu(u) relu(v)] = sqrt(a b) (sin t + (pi - t) cos t) / (2 pi),    E[relu'(u) relu'(v)] = (pi - t) / (2 pi),
    E[erf(u) erf(v)] = (2 / pi) arcsin(2 c / r),    E[erf'(u) erf'(v)] = (4 / pi) / sqrt(r^2 - 4 c^2),

r^2 = (1 + 2 a) (1 + 2 b): the arc-cosine and the arc-sine kernels.

Source: Cho and Saul, Kernel Methods for Deep Learning, NeurIPS 2009; Williams, Computing with Infinite Networks, NIPS
1996.
"""

import math

import torch
from torch import Tensor


def relu_moments(first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute E[relu(u) relu(v)] and E[relu'(u) relu'(v)] of pairs.

    Args:
        first: variances a of u, positive, as `[N, 1]`.
        second: variances b of v, positive, as `[M]`.
        covariance: c, `[N, M]`.

    Returns:
        Both of the shape to which all three are broadcast. At pairs of equal or opposite inputs, where the cosine has
        an extreme and no gradient, none goes through it.
    """
    product = (first * second).sqrt()
    cosine = (covariance / product).clamp_(-1, 1)
    # An angle near 0 is lost in its cosine; where rounding alone parts a pair, the angle is 0, and pi near pi.
    rounded = 4 * torch.finfo(cosine.dtype).eps
    cosine.masked_fill_(cosine > 1 - rounded, 1).masked_fill_(cosine < rounded - 1, -1)
    derivative = cosine.arccos().sub_(math.pi).mul_(-1 / (2 * math.pi))
    sine = (cosine * cosine).neg_().add_(1).sqrt_()
    return torch.add(derivative * cosine, sine, alpha=1 / (2 * math.pi)) * product, derivative


def erf_moments(first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute E[erf(u) erf(v)] and E[erf'(u) erf'(v)] of pairs; arguments as of `relu_moments`."""
    square = (1 + 2 * first) * (1 + 2 * second)
    sine = (covariance / square.sqrt()).mul_(2).clamp_(-1, 1)
    root = (square - (covariance * covariance).mul_(4)).clamp_(min=1).sqrt()
    return sine.arcsin().mul_(2 / math.pi), 4 / math.pi / root
