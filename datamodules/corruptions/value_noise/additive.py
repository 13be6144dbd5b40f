"""Distributions of additive noise: light-tailed, heavy-tailed and skewed distributions, and rare gross errors."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import positive, within
from datamodules.corruptions.value_noise.interface import ValueNoise


@dataclass(frozen=True)
class _OfStd(ValueNoise):
    """Base class of noise distributions that are specified by their standard deviation."""

    std: float = 1.0

    def __post_init__(self) -> None:
        positive(std=self.std)

    @property
    def variance(self) -> float:
        return self.std**2


@dataclass(frozen=True)
class GaussianValues(_OfStd):
    """Normal distribution N(0, std^2).

    Args:
        std: standard deviation, positive.
    """

    mean = 0.0

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        return self.std * random.standard_normal(shape)


@dataclass(frozen=True)
class Laplace(_OfStd):
    """Laplace distribution with mean 0 and scale std / sqrt(2).

    Args:
        std: standard deviation, positive.
    """

    mean = 0.0

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        return random.laplace(0.0, self.std / math.sqrt(2), shape)


@dataclass(frozen=True)
class Gumbel(_OfStd):
    """Gumbel distribution with location 0 and scale sqrt(6) std / pi.

    The mean of this distribution is not 0.

    Args:
        std: standard deviation, positive.
    """

    @property
    def scale(self) -> float:
        """Scale of the distribution."""
        return math.sqrt(6) * self.std / math.pi

    @property
    def mean(self) -> float:
        return float(np.euler_gamma) * self.scale

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        return random.gumbel(0.0, self.scale, shape)


@dataclass(frozen=True)
class Exponential(_OfStd):
    """Exponential distribution, whose mean and standard deviation are both `std`.

    All values are positive.

    Args:
        std: standard deviation, positive.
    """

    @property
    def mean(self) -> float:
        return self.std

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        return random.exponential(self.std, shape)


@dataclass(frozen=True)
class StudentT(ValueNoise):
    """Student's t distribution, multiplied by a scale.

    The distribution is heavy-tailed. With two or fewer degrees of freedom, its variance is infinite.

    Args:
        degrees: degrees of freedom, positive.
        scale: factor, positive.
    """

    degrees: float = 3.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(degrees=self.degrees, scale=self.scale)

    @property
    def mean(self) -> float:
        return 0.0 if self.degrees > 1 else math.nan

    @property
    def variance(self) -> float:
        return self.scale**2 * self.degrees / (self.degrees - 2) if self.degrees > 2 else math.inf

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        return self.scale * random.standard_t(self.degrees, shape)


@dataclass(frozen=True)
class GrossOutliers(ValueNoise):
    """Gross errors in a random subset of the values.

    With probability `fraction`, a Gaussian error is added to a value. Otherwise, the value is unchanged.

    Args:
        fraction: probability of an error, in [0, 1].
        std: standard deviation of an error, above 0.
    """

    fraction: float = 0.2
    std: float = 10.0
    mean = 0.0

    def __post_init__(self) -> None:
        within(0, 1, fraction=self.fraction)
        positive(std=self.std)

    @property
    def variance(self) -> float:
        return self.fraction * self.std**2

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        chosen = random.random(shape) < self.fraction
        return np.where(chosen, self.std * random.standard_normal(shape), 0.0)
