"""Score, noise scales and acyclicity of a weighted graph, and gradients with respect to its weights, in NumPy.

One training run has about a hundred thousand iterations. For graphs with twenty nodes, NumPy takes half the time of
PyTorch.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Variant = Literal["ev", "nv", "ls"]
Array = NDArray[np.floating[Any]]


def covariance(features: Array) -> Array:
    """Compute X^T X / n for rows X `[n, d]`, after centring the columns."""
    centred = features - features.mean(axis=0)
    return centred.T @ centred / len(centred)


def residual_covariances(weight: Array, cov: Array, identity: Array) -> tuple[Array, Array]:
    """Compute cov (I - W), `[d, d]`, and the residual variances ((I - W)^T cov (I - W))_jj, `[d]`."""
    residual = identity - weight
    product = cov @ residual
    return product, np.einsum("ij,ij->j", residual, product)


def noise_scale(variance: Array, variant: Variant, floor: float = 0.0) -> Array:
    """Compute the noise scales sigma, `[d]`, that minimise the score for residual variances `[d]`.

    For the variant `ls`, all scales are 1.
    """
    least = floor * floor  # this lower bound also replaces variances that are negative because of rounding
    if variant == "nv":
        return np.sqrt(np.maximum(variance, least))
    shared = 1.0 if variant == "ls" else max(float(variance.sum()) / len(variance), least) ** 0.5
    return np.full(len(variance), shared)


def score(variance: Array, sigma: Array, variant: Variant) -> float:
    """Compute the score S from residual variances `[d]` and noise scales `[d]`."""
    fit = float((variance / sigma).sum()) / 2
    return fit if variant == "ls" else fit + float(sigma.sum()) / 2


def acyclicity(weight: Array, s: float) -> float:
    """Compute h_s(W).

    The value is zero for acyclic graphs, and positive for all other graphs in the domain of h_s.
    """
    matrix = s * np.eye(len(weight)) - weight * weight
    return len(weight) * float(np.log(s)) - float(np.linalg.slogdet(matrix).logabsdet)


def gradient(weight: Array, product: Array, sigma: Array, inverse: Array, mu: float, penalty: float) -> Array:
    """Compute the gradient of mu (S + lambda ||W||_1) + h_s(W) with respect to W; sigma is constant, and sign(0) is 0.

    Args:
        weight: W, `[d, d]`.
        product: cov (I - W), `[d, d]`.
        sigma: noise scales, `[d]`.
        inverse: (s I - W o W)^-1, `[d, d]`.
        mu: weight of the score and the L1 penalty in the objective.
        penalty: weight lambda of the L1 penalty.
    """
    slope = np.sign(weight)
    slope *= mu * penalty
    slope -= product * (mu / sigma)
    slope += 2 * weight * inverse.T
    return slope
