"""Random numbers that noise is drawn from: by (seed, epoch, sample), or by one seed for every tested image."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.augmentation import sample_words


class RNG(Protocol):
    """A source of random numbers for a batch; each call gives new ones, and their order matters.

    Results have the shape of the argument, `[B, C, H, W]`, and its device.
    """

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers in (0, 1)."""
        ...

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers."""
        ...

    def poisson(self, rate: Tensor) -> Tensor:
        """Draw whole numbers of Poisson's law, with the means `rate`, at least 0."""
        ...

    def gamma(self, shape: Tensor) -> Tensor:
        """Draw numbers of the Gamma law with shapes of at least 1 and scale 1."""
        ...


class CounterRNG:
    """Numbers from a counter, which follow from (seed, epoch, sample) alone, on any device and without a state.

    Uniform and normal numbers, in the type of the argument, are made of 24 random bits; a normal one is at most 5.8 in
    size. Those of other laws are computed in float64, from 53 bits where they are the law's quantiles.

    Args:
        seed: random seed of the run.
        epoch: pass through the set; it redraws all numbers.
        index: `[B]`, int64: positions of the samples, on the device of the numbers.
        stream: draws independent numbers for another purpose; those below 1000 are for augmentation.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor, stream: int = 1000) -> None:
        self.seed = seed
        self.epoch = epoch
        self.index = index
        self.stream = stream

    def uniform(self, like: Tensor) -> Tensor:
        words = self._words(like[0].numel())
        return (((words >> 40) & 0xFFFFFF).to(like.dtype).add_(0.5).div_(1 << 24)).view_as(like)

    def normal(self, like: Tensor) -> Tensor:
        # Box and Muller: each half of a word gives 24 bits, of a radius and an angle, and they give two numbers.
        count = like[0].numel()
        halves = (self._words((count + 1) // 2).view(torch.int32) >> 8).bitwise_and_(0xFFFFFF).to(like.dtype)
        radius = (halves[:, 1::2] + 1).div_(1 << 24).log_().mul_(-2).sqrt_()
        angle = halves[:, ::2] * (2 * math.pi / (1 << 24))
        return torch.cat([radius * angle.cos(), radius * angle.sin_()], dim=1)[:, :count].reshape(like.shape)

    def poisson(self, rate: Tensor) -> Tensor:
        return poisson_quantile(self._fine(rate), rate.double()).to(rate.dtype)

    def gamma(self, shape: Tensor) -> Tensor:
        # Marsaglia and Tsang (ACM TOMS 26, 2000), as many attempts as leave a probability of 1e-12 that all fail.
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
        """Uniform numbers in (0, 1) of 53 bits, in float64."""
        words = self._words(like[0].numel()) & ((1 << 53) - 1)
        return words.double().add_(0.5).div_(1 << 53).view_as(like)

    def _words(self, count: int) -> Tensor:
        self.stream += 1
        return sample_words(self.seed, self.epoch, self.index, count, self.stream)


ATTEMPTS = 10
FEW = 8.0
"""Means up to which Poisson's law is summed up from 0."""


def poisson_quantile(uniform: Tensor, rate: Tensor) -> Tensor:
    """Invert the distribution function of Poisson's law: the least k with P(X <= k) >= u.

    Probabilities are summed up from 0 for small means; for larger ones the expansion of Cornish and Fisher is right to
    two counts, which the exact distribution function there corrects.

    Args:
        uniform: u, in (0, 1), float64.
        rate: means, at least 0, float64.
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
    """Numbers of NumPy's old generator, seeded anew for one image, as the tables of the field draw them.

    This is the protocol of DnCNN, FFDNet and KAIR (`np.random.seed(0)` before each image), so images of one size share
    the noise: a method's numbers on them are those of the published tables, and every method sees the same images.
    Numbers are drawn in the order rows, columns, channels, in float64. What an image has one of, such as the level of
    its noise or the gain of its camera, is drawn by seed and index (`CounterRNG`), so that images differ in it.

    Args:
        seed: random seed.
        index: position of the image in its set.
    """

    def __init__(self, seed: int = 0, index: int = 0) -> None:
        self.random = np.random.RandomState(seed)
        self.of_image = CounterRNG(seed, 0, torch.tensor([index]))

    def uniform(self, like: Tensor) -> Tensor:
        if like[0].numel() == 1:
            return self.of_image.uniform(like.double())
        return self._drawn(like, lambda given: self.random.random_sample(given.shape))

    def normal(self, like: Tensor) -> Tensor:
        if like[0].numel() == 1:
            return self.of_image.normal(like.double())
        return self._drawn(like, lambda given: self.random.standard_normal(given.shape))

    def poisson(self, rate: Tensor) -> Tensor:
        return self._drawn(rate, self.random.poisson)

    def gamma(self, shape: Tensor) -> Tensor:
        return self._drawn(shape, self.random.standard_gamma)

    @staticmethod
    def _drawn(like: Tensor, draw: Callable[[np.ndarray], Any]) -> Tensor:
        drawn = draw(like[0].permute(1, 2, 0).double().numpy())
        return torch.from_numpy(drawn.transpose(2, 0, 1).astype(np.float64))[None]
