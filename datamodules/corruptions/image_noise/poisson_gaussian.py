"""Noise of cameras and microscopes: Poisson noise of photons plus Gaussian noise of the electronics.

The variance of a pixel y is a line in its mean, Var(y) = gain E(y) + variance. `estimate_poisson_gaussian` fits this
line to a single image. `stabilize_variance` then transforms the image so that its noise has variance 1 everywhere, and
`invert_stabilization` transforms a denoised image back.

Sources: Foi, Trimeche, Katkovnik and Egiazarian, Practical Poissonian-Gaussian Noise Modeling and Fitting for
Single-Image Raw-Data, IEEE Transactions on Image Processing 2008; Makitalo and Foi, Optimal Inversion of the
Generalized Anscombe Transformation for Poisson-Gaussian Noise, IEEE Transactions on Image Processing 2013.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.randomness.counter import RNG

WINDOW, BINS, SHARE = 5, 40, 0.25
"""Side of the window of a local mean in blocks of 2 x 2 pixels, number of bins, and share of calm blocks in a bin."""
LEAST_GAIN = 1e-6
"""Smallest estimated gain. With this gain, the noise is practically Gaussian."""


@dataclass(frozen=True)
class PoissonGaussian(ImageNoise):
    """Poisson noise of photons plus Gaussian read noise: y = gain z + n, z ~ Poisson(x / gain), n ~ N(0, read^2).

    The variance of y is gain x + read^2.

    Args:
        gain: pixel value that corresponds to one photon, in (0, 1]. Larger values give more noise.
        read: standard deviation of the Gaussian noise for images in [0, 1].
    """

    gain: float = 0.01
    read: float = 0.01

    def __post_init__(self) -> None:
        within(0, 1, "(]", gain=self.gain)
        at_least(0, read=self.read)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        photons = numbers.poisson(clean / self.gain)
        return self.gain * photons + self.read * numbers.normal(clean)


def estimate_poisson_gaussian(noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the gain and the variance of the noise at mean 0, separately for each image and channel.

    Blocks of 2 x 2 pixels are sorted into bins by their local mean. In each bin, only blocks whose surroundings vary
    least are used. Their diagonal Haar coefficients give the variance of the noise in the bin. A line is fitted to the
    pairs of mean and variance by robust weighted least squares (Huber's weights).

    The noise must be independent in every pixel and not clipped. If values have an offset, such as the black level of a
    camera, the estimated variance is smaller by the product of offset and gain, and may be negative. Fine texture is
    mistaken for noise if it is stronger than the noise.

    Args:
        noisy: images `[B, C, H, W]` of at least 32 x 32 pixels.

    Returns:
        Gain and variance, `[B, C]` each, float64 on the CPU, in the units of `noisy`. The gain is at least 1e-6.
    """
    if min(noisy.shape[2:]) < 32:
        raise ValueError(f"estimating noise needs images of at least 32 x 32 pixels, got {list(noisy.shape[2:])}")
    planes = noisy.detach().double().cpu().flatten(0, 1).numpy()
    lines = torch.tensor([fit_noise_line(*mean_variance_pairs(plane)) for plane in planes], dtype=torch.float64)
    gain, variance = lines.view(*noisy.shape[:2], 2).unbind(dim=2)
    return gain, variance


def mean_variance_pairs(image: NDArray[np.float64]) -> tuple[NDArray, NDArray, int]:
    """Compute pairs of local mean and noise variance of an image `[H, W]`, and the number of blocks in each pair."""
    height, width = (side // 2 * 2 for side in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    detail = (blocks[:, 0, :, 0] - blocks[:, 0, :, 1] - blocks[:, 1, :, 0] + blocks[:, 1, :, 1]).ravel() / 2
    low = blocks.mean(axis=(1, 3))
    mean = uniform_filter(low, WINDOW)
    spread = uniform_filter((low - low.mean()) ** 2, WINDOW) - (mean - low.mean()) ** 2
    mean, spread = mean.ravel(), spread.ravel()
    bins = min(BINS, max(2, len(mean) // 200))
    used = max(20, int(len(mean) // bins * SHARE))
    parts = [part[np.argsort(spread[part])[:used]] for part in np.array_split(np.argsort(mean), bins)]
    pairs = [(mean[calm].mean(), np.square(detail[calm]).mean()) for calm in parts]
    return np.array([x for x, _ in pairs]), np.array([v for _, v in pairs]), used


def fit_noise_line(mean: NDArray, variance: NDArray, count: int) -> tuple[float, float]:
    """Fit variance = gain mean + constant, where each variance is a mean over `count` squared Gaussian numbers."""
    model = np.maximum(variance, max(np.median(variance) * 1e-3, 1e-24))
    gain = constant = 0.0
    weight = 1 / model
    for _ in range(20):
        slope, constant = np.polyfit(mean, variance, 1, w=weight)
        gain = max(float(slope), LEAST_GAIN)
        if gain > slope:
            constant = np.average(variance - gain * mean, weights=weight**2)
        model = np.maximum(gain * mean + constant, model.min())
        deviation = np.abs(variance - model) / (model * math.sqrt(2 / count))
        weight = 1 / (model * np.sqrt(np.maximum(1, deviation / 1.5)))
    return gain, float(constant)


def stabilize_variance(noisy: Tensor, gain: Tensor | float, variance: Tensor | float) -> Tensor:
    """Transform images so that Poisson-Gaussian noise has variance close to 1 (generalised Anscombe transform).

        f(y) = (2 / gain) sqrt(max(gain y + (3 / 8) gain^2 + variance, 0))

    Args:
        noisy: images `[B, C, H, W]`.
        gain: slope of the noise variance, broadcastable to the images.
        variance: noise variance at mean 0, see `estimate_poisson_gaussian`.
    """
    return (2 / gain) * (gain * noisy + 0.375 * gain**2 + variance).clamp(min=0).sqrt()


def invert_stabilization(denoised: Tensor, gain: Tensor | float, variance: Tensor | float) -> Tensor:
    """Estimate means E(y) from the means of f(y), without the bias of the algebraic inverse of f.

    This is the closed-form approximation of the exact unbiased inverse,

        gain (D^2 / 4 + (1/4) sqrt(3/2) / D - (11/8) / D^2 + (5/8) sqrt(3/2) / D^3 - 1/8) - variance / gain,

    where values of D below sqrt(3/2) are raised to sqrt(3/2).

    Args:
        denoised: means D of the transformed images, `[B, C, H, W]`.
        gain: as for `stabilize_variance`.
        variance: as for `stabilize_variance`.
    """
    root = math.sqrt(1.5)
    d = denoised.clamp(min=root)
    return gain * (d**2 / 4 + root / (4 * d) - 1.375 / d**2 + 0.625 * root / d**3 - 0.125) - variance / gain
