"""The interfaces of noise that is added to values, and of noise that flips signs."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class ValueNoise(ABC):
    """A law of independent numbers that are added to values, in the values' own units."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """Expectation of a number; NaN where there is none."""

    @property
    @abstractmethod
    def variance(self) -> float:
        """Variance of a number; infinite where there is none."""

    @abstractmethod
    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        """Draw numbers of a shape."""


class SignFlips(ABC):
    """Massart noise of labels -1 and 1: each is flipped with a probability below one half, which depends on its row."""

    @abstractmethod
    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the probability of each row's flip, `[N]`, in [0, 1/2).

        Args:
            features: `[N, D]`.
            margin: `[N]`, signed distance of each row from the true boundary.
        """

    def flips(
        self, features: NDArray[np.float64], margin: NDArray[np.float64], random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Draw whose labels are flipped, `[N]`."""
        return random.random(len(margin)) < self.probability(features, margin)
