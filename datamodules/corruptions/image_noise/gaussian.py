"""Additive Gaussian noise: white noise, and noise that is correlated between neighbouring pixels."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import positive
from datamodules.corruptions.image_noise.interface import (
    ImageNoise,
    Level,
    check_level,
    drawn_level,
    level_of,
    ranged_level,
    sum_per_sample,
)
from datamodules.randomness.counter import RNG


@dataclass(frozen=True)
class Gaussian(ImageNoise):
    """Additive white Gaussian noise: y = x + n, n ~ N(0, sigma^2), independent in every pixel and channel.

    Tweedie's formula is E[x | y] = y + sigma^2 score(y).

    Args:
        grey_levels: standard deviation in grey levels (white is 255), in [0, 255]; or a range (lowest, highest), from
            which the standard deviation of each image is sampled log-uniformly.
    """

    grey_levels: Level = 25.0

    def __post_init__(self) -> None:
        check_level("grey_levels", self.grey_levels, 0, 255, low_belongs=True)

    @property
    def sigma(self) -> float:
        """Standard deviation for images in [0, 1]."""
        return level_of(self.grey_levels, "grey_levels") / 255

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        return ranged_level(self.grey_levels, clean, numbers)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        return clean + drawn_level(self.grey_levels, clean, numbers) / 255 * numbers.normal(clean)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        standardised = (noisy - clean) / self.sigma
        return sum_per_sample(-0.5 * standardised**2 - math.log(self.sigma * math.sqrt(2 * math.pi)))

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        return noisy + self.sigma**2 * score


@dataclass(frozen=True)
class CorrelatedGaussian(ImageNoise):
    """Additive Gaussian noise that is correlated between neighbouring pixels.

    White noise is blurred and rescaled to its original variance.

    Tweedie's formula is E[x | y] = y + C score(y). `covariance` describes the noise covariance C.

    Args:
        grey_levels: standard deviation of a pixel in grey levels (white is 255), in [0, 255]. If it is a range (lowest,
            highest), the standard deviation of each image is sampled log-uniformly.
        blur: standard deviation of the Gaussian blur, in pixels.
    """

    grey_levels: Level = 25.0
    blur: float = 0.7

    def __post_init__(self) -> None:
        check_level("grey_levels", self.grey_levels, 0, 255, low_belongs=True)
        positive(blur=self.blur)

    def kernel(self, like: Tensor) -> Tensor:
        """Blur kernel along one axis.

        The squares of the kernel's values sum to 1. The blur therefore preserves the variance of white noise.
        """
        reach = math.ceil(4 * self.blur)
        offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
        weight = torch.exp(-0.5 * (offset / self.blur) ** 2)
        return weight / weight.norm()

    def covariance(self, like: Tensor) -> Tensor:
        """Noise correlation of two pixels at distances -2r...2r along an axis, `[4r + 1]`; r is the kernel radius.

        The covariance of the noise at two pixels is the product of three numbers: sigma^2, the correlation at the
        pixels' vertical distance, and the correlation at their horizontal distance.
        """
        kernel = self.kernel(like)
        return F.conv1d(kernel[None, None], kernel[None, None], padding=len(kernel) - 1)[0, 0]

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        return ranged_level(self.grey_levels, clean, numbers)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        kernel = self.kernel(clean)
        reach = len(kernel) // 2
        level = drawn_level(self.grey_levels, clean, numbers)
        white = numbers.normal(F.pad(clean, [reach] * 4)).to(clean)
        return clean + level / 255 * _along_both(white, kernel, padding=0)

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        covariance = self.covariance(noisy)
        sigma = level_of(self.grey_levels, "grey_levels") / 255
        return noisy + sigma**2 * _along_both(score, covariance, padding=len(covariance) // 2)


def _along_both(image: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Convolve every channel with a kernel along columns and along rows."""
    channels = image.shape[1]
    down = kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    image = F.conv2d(image, down, groups=channels, padding=(padding, 0))
    return F.conv2d(image, down.transpose(2, 3), groups=channels, padding=(0, padding))
