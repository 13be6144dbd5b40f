"""Certified radius of dual randomised smoothing, from two votes on disjoint parts of an image.

Let the class probabilities of the two parts be at least Phi(u) and Phi(v). Suppose that perturbations of lengths a and
b change the parts. The probabilities then stay at least Phi(u - a / sigma_l) and Phi(v - b / sigma_r). While u + v > a
/ sigma_l + b / sigma_r, the sum of both probabilities is above 1. No other class can then win. For a^2 + b^2 = R^2, the
right side is at most R sqrt(1/sigma_l^2 + 1/sigma_r^2). Hence the certified radius is R:

    R = (u + v) / sqrt(1 / sigma_l^2 + 1 / sigma_r^2).

For equal noise, R is sigma (u + v) / sqrt(2). One of u and v may be negative.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def joint_radius(probability: Sequence[float], sigma: Sequence[float]) -> float:
    """Compute the radius within which the class with the largest sum of votes is constant.

    Args:
        probability: lower bounds of the class probability in both votes, in [0, 1).
        sigma: standard deviation of the noise in each part, in pixel units.

    Returns:
        The radius R in pixel units; a negative radius means that there is no certificate.
    """
    return float(np.sum(ndtri(probability)) / math.hypot(*(1 / s for s in sigma)))


def published_radius_cifar10(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius in the code of the authors for CIFAR-10, sqrt(r_l^2 + r_r^2) with r = max(sigma Phi^-1(p), 0).

    This radius is not guaranteed. It exceeds the radius of the theorem unless r_l = r_r, and it counts negative r as 0.

    Returns:
        The radius in pixel units; it is minus infinity below 1e-5, where the code of the authors abstains.
    """
    radius = math.hypot(*(max(float(sigma * ndtri(p)), 0.0) for p in probability))
    return radius if radius >= 1e-5 else -math.inf


def published_radius_imagenet(probability: Sequence[float], sigma: float) -> float:
    """Compute the radius in the code of the authors for ImageNet.

    The radius is (r_l + r_r) / sqrt(2); see `published_radius_cifar10`.

    This radius is not guaranteed if one of the probabilities is below 1/2.
    """
    radius = sum(max(float(sigma * ndtri(p)), 0.0) for p in probability) / math.sqrt(2)
    return radius if radius >= 1e-5 else -math.inf
