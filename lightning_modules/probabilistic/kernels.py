"""Kernels of infinitely wide networks; a kernel is an expectation over Gaussian weights for a pair of inputs.

Let (u, v) be jointly normal with mean 0, variances a and b, and covariance c, and let t = arccos(c / sqrt(a b)). Then

    E[relu(u) relu(v)] = sqrt(a b) (sin t + (pi - t) cos t) / (2 pi),    E[relu'(u) relu'(v)] = (pi - t) / (2 pi),
    E[erf(u) erf(v)] = (2 / pi) arcsin(2 c / r),    E[erf'(u) erf'(v)] = (4 / pi) / sqrt(r^2 - 4 c^2),

where r^2 = (1 + 2 a) (1 + 2 b). The first line gives the arc-cosine kernels, and the second the arc-sine kernels.

Source: Cho and Saul, Kernel Methods for Deep Learning, NeurIPS 2009; Williams, Computing with Infinite Networks, NIPS
1996.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Moments = Callable[..., tuple[Tensor, ...]]
AT_ONCE = 2**15
"""Number of values computed at once on the CPU, chosen so that intermediate results fit in the cache."""


def in_parts(moments: Moments) -> Moments:
    """Wrap a function that computes moments, so that large results on the CPU are computed in blocks of rows.

    The blocks do not change the results. Blocks are not used if gradients are required.
    """

    @wraps(moments)
    def of_parts(first: Tensor, second: Tensor, covariance: Tensor, slopes: bool = True) -> tuple[Tensor, ...]:
        tracked = torch.is_grad_enabled() and any(each.requires_grad for each in (first, second, covariance))
        if tracked or covariance.device.type != "cpu" or covariance.numel() <= AT_ONCE:
            return moments(first, second, covariance, slopes)
        given = [each[(None,) * (covariance.ndim - each.ndim)] for each in (first, second, covariance)]
        results = [torch.empty_like(covariance) for _ in range(1 + slopes)]
        rows = max(1, AT_ONCE * len(covariance) // covariance.numel())
        for start in range(0, len(covariance), rows):
            parts = moments(*(each[start : start + rows] if len(each) > 1 else each for each in given), slopes)
            for whole, part in zip(results, parts, strict=True):
                whole[start : start + rows] = part
        return tuple(results)

    return of_parts


def apply_function(name: Literal["arccos", "arcsin", "sqrt"], x: Tensor) -> Tensor:
    """Apply a function to each value; on the CPU and without gradients, by NumPy, which takes less time."""
    if x.device.type != "cpu" or x.requires_grad or x.dtype not in (torch.float32, torch.float64):
        return getattr(torch, name)(x)
    return torch.as_tensor(getattr(np, name)(x.numpy()))


@in_parts
def relu_moments(first: Tensor, second: Tensor, covariance: Tensor, slopes: bool = True) -> tuple[Tensor, ...]:
    """Compute E[relu(u) relu(v)] and E[relu'(u) relu'(v)] for pairs (u, v).

    Args:
        first: variances a of u, `[N, 1]`, positive.
        second: variances b of v, `[M]`, positive.
        covariance: covariances c of u and v, `[N, M]`.
        slopes: whether to return the second expectation.

    Returns:
        One or both expectations, `[N, M]`. For pairs of equal or opposite inputs, no gradient flows through the cosine,
        because the gradient does not exist if the cosine is 1 or -1.
    """
    product = first.sqrt() * second.sqrt()
    cosine = covariance / product
    # Angles near 0 and pi are inaccurate. If the cosine is within 4 eps of 1 or -1, the angle is set to 0 or pi.
    rounded = 3.5 * torch.finfo(cosine.dtype).eps - 1
    opposite = F.threshold(cosine, rounded, -1, inplace=True).neg_()
    opposite = F.threshold(opposite, rounded, -1, inplace=True)
    # pi - t is the arccosine of the opposite cosine.
    derivative = apply_function("arccos", opposite).mul_(1 / (2 * math.pi))
    sine = apply_function("sqrt", (opposite * opposite).neg_().add_(1))
    value = (sine * (1 / (2 * math.pi))).addcmul_(derivative, opposite, value=-1)
    return (value.mul_(product), derivative)[: 1 + slopes]


@in_parts
def erf_moments(first: Tensor, second: Tensor, covariance: Tensor, slopes: bool = True) -> tuple[Tensor, ...]:
    """Compute E[erf(u) erf(v)] and E[erf'(u) erf'(v)] for pairs (u, v); for the arguments, see `relu_moments`."""
    first, second = 1 + 2 * first, 1 + 2 * second
    sine = (covariance / (first.sqrt() * second.sqrt())).mul_(2).clamp_(-1, 1)
    value = apply_function("arcsin", sine).mul_(2 / math.pi)
    if not slopes:
        return (value,)
    root = apply_function("sqrt", (first * second - (covariance * covariance).mul_(4)).clamp_(min=1))
    return value, 4 / math.pi / root
