"""The interface of image noise."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from datamodules.randomness.counter import RNG

Level = float | tuple[float, float]
"""A strength of noise, or the least and the greatest one, between which each image's is drawn, log-uniformly."""


class ImageNoise(ABC):
    """A law of noisy images y given clean ones x."""

    @abstractmethod
    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        """Draw a noisy image of each clean one, neither clipped nor rounded.

        Args:
            clean: `[B, C, H, W]`, in [0, 1].
            numbers: random numbers, one source for all of the batch.

        Returns:
            `[B, C, H, W]`, in the units of the clean images.
        """

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        """Give the strengths that `sample` draws for images from the same numbers, `[B, 1, 1, 1]`; None of one for all.

        They have the units of the argument that is a range.
        """
        return None

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Logarithm of the density of noisy images given clean ones, `[B]`; of the probability, for discrete noise.

        Raises:
            TypeError: if the law has no closed form.
        """
        raise TypeError(f"{type(self).__name__} has no likelihood in closed form")

    def score_input(self, noisy: Tensor) -> Tensor:
        """Noisy images in the units in which their score is taken: their own, or counts for Poisson noise."""
        return noisy

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        """Estimate clean images by Tweedie's formula from the score of the law of noisy ones.

        Args:
            noisy: y, `[B, C, H, W]`.
            score: d log p / d y at y, in the units of `score_input`.

        Returns:
            `[B, C, H, W]`, not clipped.

        Raises:
            TypeError: if the law is of no exponential family.
        """
        raise TypeError(f"{type(self).__name__} has no formula of Tweedie's kind")


def level_of(level: Any, name: str) -> float:
    """The one strength of a noise whose law is asked for.

    Raises:
        ValueError: if it is drawn from a range.
    """
    if isinstance(level, tuple | list):
        raise ValueError(f"{name} {list(level)} is a range, and a law has one strength")
    return level


def ranged_level(level: Any, clean: Tensor, numbers: RNG) -> Tensor | None:
    """Give the strength of each image, `[B, 1, 1, 1]`, that `drawn_level` gives; None where there is no range."""
    drawn = drawn_level(level, clean, numbers)
    return drawn if isinstance(drawn, Tensor) else None


def drawn_level(level: Any, clean: Tensor, numbers: RNG) -> float | Tensor:
    """Give the strength of noise: one for all, or one of each image, `[B, 1, 1, 1]`."""
    if not isinstance(level, tuple | list):
        return level
    low, high = level
    return low * (high / low) ** numbers.uniform(clean[:, :1, :1, :1])


def summed(values: Tensor) -> Tensor:
    """Sum over all but the first dimension."""
    return torch.sum(values.flatten(1), dim=1)


def check_level(name: str, level: Any, low: float, high: float, low_belongs: bool = False) -> None:
    """Refuse a strength of noise, or a range of it, outside its domain.

    Raises:
        ValueError: names the argument.
    """
    ends = level if isinstance(level, tuple | list) else (level,)
    ranged = len(ends) > 1
    for value in ends:
        if not (low < value <= high or (low_belongs and not ranged and value == low)):
            bounds = f"{'[' if low_belongs and not ranged else '('}{low:g}, {high:g}]"
            raise ValueError(f"{name} must be in {bounds}, got {value}")
    if ranged and (len(ends) != 2 or not ends[0] < ends[1]):
        raise ValueError(f"{name} must be one number, or a lower and a higher one, got {list(ends)}")
