"""Massart noise: labels -1 and 1 flip at a constant rate, only in one half-space, or mostly near the boundary.

Adversarial noise, which flips all labels in a region, is also defined here.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least, within
from datamodules.corruptions.value_noise.interface import SignFlips


@dataclass(frozen=True)
class ConstantFlips(SignFlips):
    """Flip every label with the same probability (random classification noise).

    Args:
        rate: flip probability, in [0, 1/2).
    """

    rate: float = 0.3

    def __post_init__(self) -> None:
        within(0, 0.5, "[)", rate=self.rate)

    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(len(margin), self.rate)


@dataclass(frozen=True)
class HalfFlips(SignFlips):
    """Flip labels only where one coordinate is positive.

    Args:
        rate: flip probability where the coordinate is positive, in [0, 1/2).
        coordinate: index of the coordinate, counted from 0.
    """

    rate: float = 0.3
    coordinate: int = 2

    def __post_init__(self) -> None:
        within(0, 0.5, "[)", rate=self.rate)
        at_least(0, coordinate=self.coordinate)

    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(features[:, self.coordinate] > 0, self.rate, 0.0)


@dataclass(frozen=True)
class BoundaryFlips(SignFlips):
    """Flip labels with probability `rate` exp(-|margin|), that is, most often near the true boundary.

    Args:
        rate: flip probability at the boundary, in [0, 1/2).
    """

    rate: float = 0.3

    def __post_init__(self) -> None:
        within(0, 0.5, "[)", rate=self.rate)

    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.rate * np.exp(-np.abs(margin))


@dataclass(frozen=True)
class AdversarialFlips(SignFlips):
    """Flip all labels near the true boundary, but only where one coordinate is positive.

    Labels flip where |margin| <= t and the coordinate is positive. The threshold t is chosen such that, if the points
    are standard normal, a fraction `rate` of all labels is flipped. All labels in this region are wrong, which can tilt
    the normal vector of a learned boundary towards this coordinate's axis.

    Args:
        rate: fraction of flipped labels for standard normal points, in [0, 1/2).
        coordinate: index of the coordinate, counted from 0.
    """

    rate: float = 0.05
    coordinate: int = 2

    def __post_init__(self) -> None:
        within(0, 0.5, "[)", rate=self.rate)
        at_least(0, coordinate=self.coordinate)

    def probability(self, features: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
        farthest = NormalDist().inv_cdf(0.5 + self.rate)
        return ((np.abs(margin) <= farthest) & (features[:, self.coordinate] > 0)).astype(np.float64)
