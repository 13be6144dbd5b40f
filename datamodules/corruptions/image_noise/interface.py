"""Interface of image noise."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from datamodules.randomness.counter import RNG

Level = float | tuple[float, float]
"""A noise level; or a range (lowest, highest), from which a level is sampled log-uniformly for each image."""


class ImageNoise(ABC):
    """Base class of image noise: a distribution of noisy images y given clean images x."""

    @abstractmethod
    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        """Sample a noisy image for each clean image. The result is neither clipped nor rounded.

        Args:
            clean: clean images, `[B, C, H, W]`, in [0, 1].
            numbers: source of random numbers for the batch.

        Returns:
            Noisy images, `[B, C, H, W]`, in the units of the clean images.
        """

    def drawn_levels(self, clean: Tensor, numbers: RNG) -> Tensor | None:
        """Return the noise level that `sample` uses for each image, `[B, 1, 1, 1]`; None if levels are not sampled.

        Levels have the same units as the constructor argument that defines the range.
        """
        return None

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Compute the log-density of noisy images given clean images, `[B]`.

        For discrete noise, the result is the log-probability.

        Raises:
            TypeError: if the density has no closed form.
        """
        raise TypeError(f"{type(self).__name__} has no likelihood in closed form")

    def score_input(self, noisy: Tensor) -> Tensor:
        """Convert noisy images to the units in which the score is defined.

        For Poisson noise, the units are counts. For all other noise, the images are returned unchanged.
        """
        return noisy

    def posterior_mean(self, noisy: Tensor, score: Tensor) -> Tensor:
        """Estimate clean images by Tweedie's formula, from the score of the distribution of noisy images.

        Args:
            noisy: noisy images y, `[B, C, H, W]`.
            score: d log p / d y at y, in the units of `score_input`.

        Returns:
            Estimates of the clean images, `[B, C, H, W]`, not clipped.

        Raises:
            TypeError: if the noise distribution is not an exponential family.
        """
        raise TypeError(f"{type(self).__name__} has no Tweedie formula")


def level_of(level: Any, name: str) -> float:
    """Return a noise level that is the same for all images.

    The likelihood and the posterior mean require such a level.
    """
    if isinstance(level, tuple | list):
        raise ValueError(f"{name} {list(level)} is a range, but this computation needs a single level")
    return level


def ranged_level(level: Any, clean: Tensor, numbers: RNG) -> Tensor | None:
    """If `level` is a range, sample one level per image, `[B, 1, 1, 1]`. If it is a single number, return None."""
    drawn = drawn_level(level, clean, numbers)
    return drawn if isinstance(drawn, Tensor) else None


def drawn_level(level: Any, clean: Tensor, numbers: RNG) -> float | Tensor:
    """Return the noise level: one number for all images, or one per image, `[B, 1, 1, 1]`."""
    if not isinstance(level, tuple | list):
        return level
    low, high = level
    return low * (high / low) ** numbers.uniform(clean[:, :1, :1, :1])


def sum_per_sample(values: Tensor) -> Tensor:
    """Sum a tensor over all dimensions except the first."""
    return torch.sum(values.flatten(1), dim=1)


def check_level(name: str, level: Any, low: float, high: float, low_belongs: bool = False) -> None:
    """Reject a noise level, or a range of levels, that is out of bounds."""
    ends = level if isinstance(level, tuple | list) else (level,)
    ranged = len(ends) > 1
    for value in ends:
        if not (low < value <= high or (low_belongs and not ranged and value == low)):
            bounds = f"{'[' if low_belongs and not ranged else '('}{low:g}, {high:g}]"
            raise ValueError(f"{name} must be in {bounds}, got {value}")
    if ranged and (len(ends) != 2 or not ends[0] < ends[1]):
        raise ValueError(f"{name} must be one number, or a lower and a higher one, got {list(ends)}")
