"""Random numbers from a counter, or from a fixed seed per test image.

Random numbers from a counter depend only on (seed, epoch, sample).

A counter-based generator has no state. A sample gets the same numbers in any batch and on any rank or device, and a
resumed run does not need the state of a generator.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) to a 64-bit word."""
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def _sign(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _mix_tensor(word: Tensor) -> Tensor:
    """Apply `_mix` to every element of an int64 tensor.

    int64 products wrap around on overflow, so their bits equal those of unsigned 64-bit products.
    """

    def shifted(value: Tensor, bits: int) -> Tensor:
        return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)

    word = word + _sign(_GOLDEN)
    word.bitwise_xor_(shifted(word, 30)).mul_(_sign(0xBF58476D1CE4E5B9))
    word.bitwise_xor_(shifted(word, 27)).mul_(_sign(0x94D049BB133111EB))
    return word.bitwise_xor_(shifted(word, 31))


def sample_words(seed: int, epoch: int, index: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return random 64-bit words for each sample in an epoch.

    Args:
        seed: random seed of the run.
        epoch: index of the epoch. Each epoch has new words.
        index: positions of the samples in the dataset, `[B]`, int64.
        count: number of words per sample.
        stream: index of the random stream. Use a different index for each purpose, such as a second augmentation.
            Streams are independent of each other.

    Returns:
        The words, `[B, count]`, int64, on the device of `index`.
    """
    key = 0
    for word in (seed, epoch, stream):
        key = _mix(key ^ (word & _WORD))
    sample = _mix_tensor(index + _sign(key))
    offsets = torch.arange(1, count + 1, device=index.device) * _sign(_GOLDEN)
    return _mix_tensor(sample[:, None] + offsets)


def sample_uniform(seed: int, epoch: int, index: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return float32 random numbers `[B, count]`, uniform in [0, 1), with one row for each sample.

    It takes the same arguments as `sample_words`.
    """
    bits = sample_words(seed, epoch, index, count, stream)
    return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)


class RNG(Protocol):
    """Interface of random number generators for a batch.

    Each call returns new numbers, so the result of a call depends on the number of earlier calls.

    Results have the shape `[B, C, H, W]` and the device of the argument.
    """

    def uniform(self, like: Tensor) -> Tensor:
        """Sample uniformly from (0, 1)."""
        ...

    def normal(self, like: Tensor) -> Tensor:
        """Sample from the standard normal distribution."""
        ...

    def poisson(self, rate: Tensor) -> Tensor:
        """Sample from Poisson distributions with the means `rate`, which must be at least 0."""
        ...

    def gamma(self, shape: Tensor) -> Tensor:
        """Sample from Gamma distributions with scale 1 and the given shape parameters, which must be at least 1."""
        ...


def _inside_unit_interval(words: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Map words of some bits to (0, 1). The largest word would be rounded to 1 if the type has no more bits."""
    return words.to(dtype).add_(0.5).div_(1 << bits).clamp_(max=1 - torch.finfo(dtype).eps / 2)


class CounterRNG:
    """Stateless counter-based RNG. The numbers depend only on (seed, epoch, sample), and not on the device.

    Uniform and normal numbers have 24 random bits and the dtype of the argument. The absolute value of normal numbers
    is at most 5.8. Other distributions are sampled in float64. Distributions that are sampled through their quantile
    function use 53 random bits.

    Args:
        seed: random seed of the run.
        epoch: index of the epoch. Each epoch has new numbers.
        index: positions of the samples, `[B]`, int64, on the device of the results.
        stream: index of the random stream. Streams are independent of each other. Streams below 1000 are reserved for
            augmentation.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor, stream: int = 1000) -> None:
        self.seed = seed
        self.epoch = epoch
        self.index = index
        self.stream = stream

    def uniform(self, like: Tensor) -> Tensor:
        words = self._words(like[0].numel())
        return _inside_unit_interval((words >> 40) & 0xFFFFFF, 24, like.dtype).view_as(like)

    def normal(self, like: Tensor) -> Tensor:
        # Box-Muller transform: one half of a word gives 24 bits for the radius, the other half 24 bits for the angle.
        count = like[0].numel()
        halves = (self._words((count + 1) // 2).view(torch.int32) >> 8).bitwise_and_(0xFFFFFF).to(like.dtype)
        radius = (halves[:, 1::2] + 1).div_(1 << 24).log_().mul_(-2).sqrt_()
        angle = halves[:, ::2] * (2 * math.pi / (1 << 24))
        return torch.cat([radius * angle.cos(), radius * angle.sin_()], dim=1)[:, :count].reshape(like.shape)

    def poisson(self, rate: Tensor) -> Tensor:
        return poisson_quantile(self._fine(rate), rate.double()).to(rate.dtype)

    def gamma(self, shape: Tensor) -> Tensor:
        # Marsaglia and Tsang (ACM TOMS 26, 2000). The probability that all attempts fail is 1e-12.
        d = shape.double() - 1 / 3
        c = (9 * d).rsqrt()
        drawn, wanted = d.clone(), torch.ones_like(d, dtype=torch.bool)
        for _ in range(ATTEMPTS):
            x = self.normal(d)
            v = (1 + c * x).clamp(min=1e-300) ** 3
            accepted = self._fine(d).log() < 0.5 * x * x + d - d * v + d * v.log()
            drawn = torch.where(wanted & accepted, d * v, drawn)
            wanted = wanted & ~accepted
        return drawn.to(shape.dtype)

    def _fine(self, like: Tensor) -> Tensor:
        """Sample float64 numbers uniformly from (0, 1), each with 53 random bits."""
        words = self._words(like[0].numel()) & ((1 << 53) - 1)
        return _inside_unit_interval(words, 53, torch.float64).view_as(like)

    def _words(self, count: int) -> Tensor:
        self.stream += 1
        return sample_words(self.seed, self.epoch, self.index, count, self.stream)


ATTEMPTS = 10
FEW = 8.0
"""Largest mean for which Poisson probabilities are summed, starting from k = 0."""


def poisson_quantile(uniform: Tensor, rate: Tensor) -> Tensor:
    """Compute quantiles of Poisson distributions.

    The quantile is the smallest k with P(X <= k) >= u.

    For small means, probabilities are summed from k = 0. For larger means, the Cornish-Fisher expansion gives k with an
    error of at most two counts. The exact cumulative distribution function is then used to correct k.

    Args:
        uniform: u, in (0, 1), float64.
        rate: means of the distributions, float64, at least 0.
    """
    small = rate.clamp(max=FEW)
    probability = (-small).exp()
    below = probability.clone()
    few = (uniform > below).to(rate.dtype)
    for count in range(1, 45):
        probability.mul_(small).div_(count)
        below.add_(probability)
        few.add_(uniform > below)

    large = rate.clamp(min=FEW)
    z, root = torch.special.ndtri(uniform), large.sqrt()
    k = (large + root * z + (z * z - 1) / 6 + (z - z**3) / (72 * root)).floor_().clamp_(min=0)
    below = torch.special.gammaincc(k + 1, large)
    probability = (k * large.log() - large - torch.lgamma(k + 1)).exp()
    for _ in range(3):
        up = below < uniform
        k = k + up
        probability = torch.where(up, probability * large / k.clamp(min=1), probability)
        below = torch.where(up, below + probability, below)
    for _ in range(2):
        down = (below - probability >= uniform) & (k > 0)
        below = torch.where(down, below - probability, below)
        probability = torch.where(down, probability * k / large, probability)
        k = k - down.to(k.dtype)
    return torch.where(rate <= FEW, few, k)


class SeededImageRNG:
    """NumPy's legacy random number generator with the same seed for each image, as used for published result tables.

    DnCNN, FFDNet and KAIR call `np.random.seed(0)` before each image, so images of the same size have the same noise.
    This class does the same, so results are comparable with published tables, and all methods get the same noisy
    images. Numbers are sampled in float64, in the order rows, columns, channels. Scalars that apply to a whole image,
    such as the noise level or the camera gain, differ between images, because `CounterRNG` samples them from the seed
    and the index.

    Args:
        seed: random seed.
        index: index of the image in the dataset.
    """

    def __init__(self, seed: int = 0, index: int = 0) -> None:
        self.random = np.random.RandomState(seed)
        self.of_image = CounterRNG(seed, 0, torch.tensor([index]))

    def uniform(self, like: Tensor) -> Tensor:
        if like[0].numel() == 1:
            return self.of_image.uniform(like.double())
        return self._draw(like, lambda given: self.random.random_sample(given.shape))

    def normal(self, like: Tensor) -> Tensor:
        if like[0].numel() == 1:
            return self.of_image.normal(like.double())
        return self._draw(like, lambda given: self.random.standard_normal(given.shape))

    def poisson(self, rate: Tensor) -> Tensor:
        return self._draw(rate, self.random.poisson)

    def gamma(self, shape: Tensor) -> Tensor:
        return self._draw(shape, self.random.standard_gamma)

    @staticmethod
    def _draw(like: Tensor, draw: Callable[[np.ndarray], Any]) -> Tensor:
        drawn = draw(like[0].permute(1, 2, 0).double().numpy())
        return torch.from_numpy(drawn.transpose(2, 0, 1).astype(np.float64))[None]
