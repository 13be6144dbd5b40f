"""Random numbers that noise is drawn from: by (seed, visit, sample), or by one seed for every tested image."""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.augmentation import sample_words


class Numbers(Protocol):
    """A source of random numbers for a batch; each call gives new ones, and their order matters."""

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers in (0, 1), with shape `[B, ...]`, type and device of `like`."""
        ...

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers, with shape `[B, ...]`, type and device of `like`."""
        ...


class SampleNumbers:
    """Numbers from a counter, which follow from (seed, visit, sample) alone, on any device and without a state.

    A number is made of 24 random bits; a normal one is at most 5.8 in size.

    Args:
        seed: random seed of the run.
        visit: pass through the set; it redraws all numbers.
        index: `[B]`, int64: positions of the samples, on the device of the numbers.
        stream: draws independent numbers for another purpose; those below 1000 are for augmentation.
    """

    def __init__(self, seed: int, visit: int, index: Tensor, stream: int = 1000) -> None:
        self.seed = seed
        self.visit = visit
        self.index = index
        self.stream = stream

    def uniform(self, like: Tensor) -> Tensor:
        words = self._words(like[0].numel())
        return (((words >> 40) & 0xFFFFFF).to(like.dtype).add_(0.5).div_(1 << 24)).view_as(like)

    def normal(self, like: Tensor) -> Tensor:
        # Box and Muller: one word gives a radius and an angle, and these two numbers.
        count = like[0].numel()
        words = self._words((count + 1) // 2)
        radius = (((words >> 40) & 0xFFFFFF) + 1).to(like.dtype).div_(1 << 24).log_().mul_(-2).sqrt_()
        angle = ((words >> 16) & 0xFFFFFF).to(like.dtype).mul_(2 * math.pi / (1 << 24))
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(like.shape)

    def _words(self, count: int) -> Tensor:
        self.stream += 1
        return sample_words(self.seed, self.visit, self.index, count, self.stream)


class NumbersOfOneImage:
    """Numbers of NumPy's old generator, seeded anew for one image, as the tables of the field draw them.

    This is the protocol of DnCNN, FFDNet and KAIR (`np.random.seed(0)` before each image), so images of one size share
    the noise: a method's numbers on them are those of the published tables, and every method sees the same images.
    Numbers are drawn in the order rows, columns, channels, in float64.

    Args:
        seed: random seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.RandomState(seed)

    def uniform(self, like: Tensor) -> Tensor:
        return self._drawn(like, self.random.random_sample)

    def normal(self, like: Tensor) -> Tensor:
        return self._drawn(like, self.random.standard_normal)

    def _drawn(self, like: Tensor, draw: object) -> Tensor:
        _, channels, height, width = like.shape
        drawn = draw((height, width, channels))  # type: ignore[operator]
        return torch.from_numpy(drawn.transpose(2, 0, 1).copy())[None]
