"""Interfaces of additive noise and of sign flips."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class ValueNoise(ABC):
    """A distribution of additive noise.

    The noise is independent for each value, and is in the same units as the values.
    """

    @property
    @abstractmethod
    def mean(self) -> float:
        """Mean of the distribution, or NaN if there is no mean."""

    @property
    @abstractmethod
    def variance(self) -> float:
        """Variance of the distribution, or infinity if the variance is not finite."""

    @abstractmethod
    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        """Sample an array of the given shape."""


class SignFlips(ABC):
    """Random sign flips of the labels -1 and 1. The probability of a flip depends on the row.

    For Massart noise, the probability is below 1/2 for every row.
    """

    @abstractmethod
    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the flip probability of each row, `[N]`. It is in [0, 1/2), or in [0, 1] for adversarial noise.

        Args:
            features: features of the rows, `[N, D]`.
            margin: signed distance of each row from the true boundary, `[N]`.
        """

    def flips(
        self, features: NDArray[np.float64], margin: NDArray[np.float64], random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Sample, for each label, whether it is flipped, `[N]`."""
        return random.random(len(margin)) < self.probability(features, margin)
