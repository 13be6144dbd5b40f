"""Signal-dependent noise: Poisson, Gamma and impulse noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.arguments import within
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
class Poisson(ImageNoise):
    """Poisson noise of counts: y = zeta z, where z ~ Poisson(x / zeta). The variance of y is zeta x.

    The score is defined for counts: s(z) = d log p / d z. The estimate of the clean image is

        x = (y + zeta / 2) exp(s(y / zeta)).

    This estimate is the exponential of the posterior mean of log x, with psi(z + 1) approximated by log(z + 1/2).

    Source: Noise2Score, Kim and Ye, NeurIPS 2021, arXiv 2106.07009.

    Args:
        zeta: pixel value that corresponds to one count, in (0, 1]. Larger values give more noise. If `zeta` is a range
            (lowest, highest), a value is sampled log-uniformly for each image.
    """

    zeta: Level = 0.01

    def __post_init__(self) -> None:
        check_level("zeta", self.zeta, 0, 1)

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        return ranged_level(self.zeta, clean, numbers)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        zeta = drawn_level(self.zeta, clean, numbers)
        return zeta * numbers.poisson(clean / zeta)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        zeta = level_of(self.zeta, "zeta")
        count, rate = noisy / zeta, clean / zeta
        return sum_per_sample(torch.xlogy(count, rate) - rate - torch.lgamma(count + 1))

    def score_input(self, noisy: Tensor) -> Tensor:
        return noisy / level_of(self.zeta, "zeta")

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        return (noisy + level_of(self.zeta, "zeta") / 2) * score.exp()


@dataclass(frozen=True)
class Gamma(ImageNoise):
    """Multiplicative Gamma noise (speckle): y = x g, where g ~ Gamma(shape k, mean 1). The variance of y is x^2 / k.

    Tweedie's formula is 1 / E[1 / x | y] = k y / ((k - 1) - y score(y)). An estimated score may make the denominator 0
    or negative. The paper does not say what to do in this case. Here, the denominator is clamped to at least 1e-6.

    Source: Noise2Score, Kim and Ye, NeurIPS 2021, arXiv 2106.07009.

    Args:
        shape: shape parameter k, above 1. Larger values give less noise. If `shape` is a range (lowest, highest), k is
            sampled log-uniformly for each image.
    """

    shape: Level = 100.0

    def __post_init__(self) -> None:
        check_level("shape", self.shape, 1, float("inf"))

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        return ranged_level(self.shape, clean, numbers)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        shape = drawn_level(self.shape, clean, numbers)
        return clean * numbers.gamma(torch.zeros_like(clean) + shape) / shape

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        k = torch.tensor(level_of(self.shape, "shape"), dtype=noisy.dtype, device=noisy.device)
        return sum_per_sample(k * (k / clean).log() - torch.lgamma(k) + (k - 1) * noisy.log() - k * noisy / clean)

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        k = level_of(self.shape, "shape")
        return k * noisy / ((k - 1) - noisy * score).clamp(min=1e-6)


@dataclass(frozen=True)
class Impulse(ImageNoise):
    """Impulse noise (salt and pepper).

    A fraction of the pixel values is replaced by black or white.

    If `salt` is 0, all replaced values are black. The result is Bernoulli noise, which resembles dead pixels. The
    likelihood of an image is a product over its pixel values. Each factor is the probability of what happened to the
    value: it was kept, turned black or turned white.

    Args:
        rate: probability that a value is replaced, in [0, 1]. The channels of a pixel are replaced independently.
        salt: probability that a replaced value is white, in [0, 1].
    """

    rate: float = 0.1
    salt: float = 0.5

    def __post_init__(self) -> None:
        within(0, 1, rate=self.rate, salt=self.salt)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        replaced = numbers.uniform(clean) < self.rate
        white = numbers.uniform(clean) < self.salt
        return torch.where(replaced, white.to(clean), clean)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        kept = (1 - self.rate) * (noisy == clean)
        return sum_per_sample(
            (kept + self.rate * self.salt * (noisy == 1) + self.rate * (1 - self.salt) * (noisy == 0)).log()
        )
