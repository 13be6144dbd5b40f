"""Compute the radius of dual randomised smoothing, of two votes on disjoint parts of an image.

If the parts are changed by vectors of lengths a and b, votes that gave the class at least Phi(u) and Phi(v) still give
it Phi(u - a / sigma_l) and Phi(v - b / sigma_r). Their sum stays above 1, the most that all other classes can have,
while u + v > a / sigma_l + b / sigma_r. Over a^2 + b^2 = R^2 the right side is at most R sqrt(1/sigma_l^2 +
1/sigma_r^2), hence

    R = (u + v) / sqrt(1 / sigma_l^2 + 1 / sigma_r^2),

which is sigma (u + v) / sqrt(2) for equal noise. One of u and v may be negative.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def joint_radius(probability: Sequence[float], sigma: Sequence[float]) -> float:
    """Compute the radius within which the sum of two votes keeps its class.

    Args:
        probability: lower bounds of the class's probability in both votes, in [0, 1).
        sigma: standard deviations of the noise in both parts, in pixel units.

    Returns:
        R in pixel units: negative for none.
    """
    return float(np.sum(ndtri(probability)) / math.hypot(*(1 / s for s in sigma)))


def published_radius_cifar10(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius of the authors' code on CIFAR-10: sqrt(r_l^2 + r_r^2) with r = max(sigma Phi^-1(p), 0).

    No guarantee: it is larger than the theorem's radius unless r_l = r_r, and a negative one counts as 0.

    Returns:
        In pixel units; below 1e-5, where that code abstains, minus infinity.
    """
    radius = math.hypot(*(max(float(sigma * ndtri(p)), 0.0) for p in probability))
    return radius if radius >= 1e-5 else -math.inf


def published_radius_imagenet(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius of the authors' code on ImageNet: (r_l + r_r) / sqrt(2), see `published_radius_cifar10`.

    No guarantee where one of the probabilities is below 1/2.
    """
    radius = sum(max(float(sigma * ndtri(p)), 0.0) for p in probability) / math.sqrt(2)
    return radius if radius >= 1e-5 else -math.inf
