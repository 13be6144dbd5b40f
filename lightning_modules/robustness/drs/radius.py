"""Certified radius of dual randomised smoothing, from two votes on disjoint parts of an image.

Let the probabilities of a class in the two parts be at least Phi(u) and Phi(v). If perturbations of l2 norms a and b
are added to the two parts, the probabilities are still at least Phi(u - a / sigma_l) and Phi(v - b / sigma_r). If u + v
> a / sigma_l + b / sigma_r, the sum of these two bounds is above 1, and no other class can have a larger sum. For a^2 +
b^2 = R^2, the right side of this condition is at most R sqrt(1/sigma_l^2 + 1/sigma_r^2). Hence the certified radius is
R:

    R = (u + v) / sqrt(1 / sigma_l^2 + 1 / sigma_r^2).

If sigma_l = sigma_r = sigma, then R = sigma (u + v) / sqrt(2). Either u or v may be negative.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def joint_radius(probability: Sequence[float], sigma: Sequence[float]) -> float:
    """Compute the radius within which the predicted class (largest sum of vote probabilities) is constant.

    Args:
        probability: lower bounds of the probability of the predicted class in the two parts, in [0, 1).
        sigma: standard deviation of the noise in each part, in pixel units.

    Returns:
        The radius R in pixel units; a negative radius means that there is no certificate.
    """
    return float(np.sum(ndtri(probability)) / math.hypot(*(1 / s for s in sigma)))


def published_radius_cifar10(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius as the authors' code does for CIFAR-10: sqrt(r_l^2 + r_r^2), with r = max(sigma Phi^-1(p), 0).

    This radius is not guaranteed to be valid. Unless r_l = r_r, it exceeds the radius of the theorem. It also replaces
    a negative sigma Phi^-1(p) with 0.

    Returns:
        The radius in pixel units. Radii below 1e-5 are replaced with minus infinity, because the authors' code then
        abstains.
    """
    radius = math.hypot(*(max(float(sigma * ndtri(p)), 0.0) for p in probability))
    return radius if radius >= 1e-5 else -math.inf


def published_radius_imagenet(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius of the authors' code for ImageNet.

    The radius is (r_l + r_r) / sqrt(2), with r_l and r_r as in `published_radius_cifar10`.

    This radius is not guaranteed to be valid if one of the probabilities is below 1/2.
    """
    radius = sum(max(float(sigma * ndtri(p)), 0.0) for p in probability) / math.sqrt(2)
    return radius if radius >= 1e-5 else -math.inf
