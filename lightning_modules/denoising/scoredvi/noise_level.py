"""Estimate the level of signal-dependent, spatially correlated noise from a single image.

Subsampling every fourth pixel in both directions gives 16 sub-images with nearly independent noise. For each channel of
each sub-image, the 7 x 7 patches are projected onto the direction in which they have the least variance. This
projection contains almost only noise. The model

    Var = sigma_u^2 I^(2 gamma) + sigma_w^2

is fitted to the brightness and the variance of the patches by maximum likelihood. The first fit uses all patches. Three
further fits use only patches with weak texture, that is, patches whose gradients can be explained by noise alone. The
estimate is the mean squared projection of the patches in the last fit.

Source: Liu, Tanaka and Okutomi, Practical Signal-Dependent Noise Parameter Estimation from a Single Noisy Image, IEEE
Transactions on Image Processing 2014, as implemented in ScoreDVI's code. The estimate is unreliable on saturated
images.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import gamma as gamma_distribution

PATCH = 7
STRIDE = 4
ROUNDS = 3
CONFIDENCE = 1 - 1e-6
Array = NDArray[np.float64]


def gradient_threshold() -> float:
    """Compute an upper quantile of the sum of squared gradients in a patch that contains only noise of variance 1."""
    patch = PATCH
    pixels = np.eye(patch * patch).reshape(-1, patch, patch)
    across = 0.5 * (pixels[:, :, 2:] - pixels[:, :, :-2]).reshape(patch * patch, -1)
    down = 0.5 * (pixels[:, 2:] - pixels[:, :-2]).reshape(patch * patch, -1)
    energy = across @ across.T + down @ down.T
    rank, trace = np.linalg.matrix_rank(energy), np.trace(energy)
    return float(gamma_distribution.ppf(CONFIDENCE, rank / 2, scale=2 * trace / rank))


def law(parameters: Array, brightness: Array) -> Array:
    """Compute the noise variance Var at a brightness I, for the parameters sigma_w, sigma_u and gamma."""
    sigma_w, sigma_u, power = parameters
    return brightness ** (2 * power) * sigma_u**2 + sigma_w**2


def fitted_law(brightness: Array, variance: Array, greatest: float | None) -> Array:
    """Fit the parameters of the noise model, in [0, `greatest`], to the brightness and variance of n patches."""

    def loss(parameters: Array) -> float:
        expected = law(parameters, brightness)
        return float((variance / (2 * expected) + np.log(expected) / 2).sum())

    bounds = [(0, greatest)] * 3
    return minimize(loss, np.array([1e-6, 0.0, 0.0]), bounds=bounds, method="Powell").x


def patches_of(image: Array, height: int, width: int) -> Array:
    """Extract all n windows of an image `[H, W]` as the rows of a matrix `[n, height * width]`."""
    return sliding_window_view(image, (height, width)).reshape(-1, height * width)


def least_variance(patches: Array) -> Array:
    """Project patches, `[n, p]`, onto the direction of least variance; return the squared projections, `[n]`."""
    moments = patches.T @ patches / (len(patches) - 1)
    return (patches @ np.linalg.eigh(moments)[1][:, 0]) ** 2


def plane_variance(plane: Array) -> float:
    """Estimate the mean noise variance of one channel, `[H, W]` in [0, 1]. The result is 0 if the estimation fails."""
    patches, mean_of = patches_of(plane, PATCH, PATCH), patches_of(plane, PATCH, PATCH).mean(axis=1)
    across = patches_of((0.5 * (plane[:, 2:] - plane[:, :-2])) ** 2, PATCH, PATCH - 2).sum(axis=1)
    down = patches_of((0.5 * (plane[2:] - plane[:-2])) ** 2, PATCH - 2, PATCH).sum(axis=1)
    strength, threshold = across + down, gradient_threshold()
    with np.errstate(all="ignore"):
        variance = least_variance(patches)
        parameters = fitted_law(mean_of, variance, None)
        for _ in range(ROUNDS):
            weak = strength < threshold * law(parameters, mean_of)
            if weak.sum() < 2:
                return 0.0
            variance = least_variance(patches[weak])
            parameters = fitted_law(mean_of[weak], variance, 100.0)
    return float(np.nan_to_num(variance.mean(), nan=0.0, posinf=1.0))


def noise_deviation(image: Array) -> float:
    """Estimate the noise standard deviation of an image.

    Args:
        image: `[C, H, W]` in [0, 1], at least 36 pixels per side. If a side is not a multiple of 4, the last rows or
            columns are ignored.

    Returns:
        The standard deviation, in the unit of the pixel values.

    Raises:
        ValueError: if the height or width of the image is less than 36 pixels.
    """
    height, width = (side - side % STRIDE for side in image.shape[1:])
    if min(height, width) < STRIDE * (PATCH + 2):
        raise ValueError(
            f"noise estimation needs images of at least 36 pixels per side, got {image.shape[1]} x {image.shape[2]}"
        )
    planes = [image[c, i:height:STRIDE, j:width:STRIDE] for c in range(len(image)) for i in range(4) for j in range(4)]
    return float(np.sqrt(np.mean([plane_variance(plane) for plane in planes])))


def prior_weight(deviation: float) -> float:
    """Choose the weight lambda according to the noise level.

    The noise level is rounded down to whole grey levels. The weight lambda is 0.5 for levels of at most 10, 1 for
    levels of at most 25, and 2 for higher levels.
    """
    levels = int(deviation * 255)
    return 0.5 if levels <= 10 else 1.0 if levels <= 25 else 2.0
