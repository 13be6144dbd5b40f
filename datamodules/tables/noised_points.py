"""Training data for score estimation: points from known distributions, each diffused for a random time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ive, log_ndtr, logsumexp

from datamodules.arguments import at_least, positive, within
from datamodules.files.data_directory import data_directory
from datamodules.files.number_tables import read_numbers
from datamodules.tables import bundled
from datamodules.tables.table_set import Rows, TableSet

Array = NDArray[np.float64]


class PointDistribution(ABC):
    """Base class of distributions of points X_0 in a ball, optionally with a known E[X_0 | X_t = x]."""

    dim: int

    @abstractmethod
    def draw(self, count: int, random: np.random.Generator, test: bool) -> Array:
        """Sample points `[count, dim]` for training or testing."""

    def posterior_mean(self, x: Array, a: Array, h: Array) -> Array | None:
        """Compute E[X_0 | X_t = x], where X_t = a X_0 + sqrt(h) n. Return None if this mean is unknown.

        The argument x and the result are `[N, dim]`; a and h are `[N, 1]`.
        """
        return None


class Atoms(PointDistribution):
    """Uniform distribution on a finite set of equally spaced points on the unit circle.

    Args:
        count: number of points.
    """

    dim = 2

    def __init__(self, count: int = 4) -> None:
        at_least(1, count=count)
        angle = 2 * np.pi * np.arange(count) / count
        self.atoms = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def draw(self, count: int, random: np.random.Generator, test: bool) -> Array:
        return self.atoms[random.integers(len(self.atoms), size=count)]

    def posterior_mean(self, x: Array, a: Array, h: Array) -> Array:
        square = ((x[:, None] - a[:, None] * self.atoms) ** 2).sum(-1)
        log_weight = -square / (2 * h)
        return np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True)) @ self.atoms


class UniformCube(PointDistribution):
    """Uniform distribution on the cube [-side / 2, side / 2]^dim.

    Args:
        dim: number of dimensions.
        side: length of an edge.
    """

    def __init__(self, dim: int = 2, side: float = 2.0) -> None:
        at_least(1, dim=dim)
        positive(side=side)
        self.dim = dim
        self.half = side / 2

    def draw(self, count: int, random: np.random.Generator, test: bool) -> Array:
        return random.uniform(-self.half, self.half, (count, self.dim))

    def posterior_mean(self, x: Array, a: Array, h: Array) -> Array:
        mean, std = x / a, np.sqrt(h) / a
        low, high = (-self.half - mean) / std, (self.half - mean) / std
        # Intervals in the upper tail are mirrored to the lower tail, which avoids cancellation.
        flipped = low > 0
        low, high = np.where(flipped, -high, low), np.where(flipped, -low, high)
        log_mass = log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
        log_density = [-(edge**2) / 2 - math.log(2 * math.pi) / 2 - log_mass for edge in (low, high)]
        shift = np.exp(log_density[0]) - np.exp(log_density[1])
        return mean + std * np.where(flipped, -shift, shift)


class UnitCircle(PointDistribution):
    """Uniform distribution on the unit circle in the plane."""

    dim = 2

    def draw(self, count: int, random: np.random.Generator, test: bool) -> Array:
        angle = 2 * np.pi * random.random(count)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def posterior_mean(self, x: Array, a: Array, h: Array) -> Array:
        radius = np.linalg.norm(x, axis=1, keepdims=True)
        argument = a * radius / h
        return ive(1, argument) / ive(0, argument) * x / radius


class StandardisedRows(PointDistribution):
    """Distribution of the rows of a table, after standardisation by the training rows and projection to a ball.

    A third of the rows is used for testing.

    Args:
        radius: radius of the ball, in standard deviations. Points outside the ball are projected to its surface.
    """

    def __init__(self, radius: float = 6.0) -> None:
        positive(radius=radius)
        self.radius = radius

    @abstractmethod
    def rows(self) -> Array:
        """Read the table, `[N, dim]`."""

    def draw(self, count: int, random: np.random.Generator, test: bool) -> Array:
        rows = self.rows()
        order = np.random.default_rng(0).permutation(len(rows))
        held_out = len(rows) // 3
        training = rows[order[held_out:]]
        own = rows[order[:held_out]] if test else training
        points = (own - training.mean(0)) / training.std(0)
        points *= np.minimum(1, self.radius / np.linalg.norm(points, axis=1, keepdims=True))
        return points[random.integers(len(points), size=count)]


class StandardisedWine(StandardisedRows):
    """Rows of scikit-learn's wine table, which has 178 rows with 13 features."""

    dim = 13

    def rows(self) -> Array:
        return bundled.Wine().read()[0].to_numpy()


class CreditDefault(StandardisedRows):
    """Rows of the UCI table "default of credit card clients", read from `<data_dir>/UCI_Credit_Card.csv`.

    The table has 30,000 rows with 23 features.

    Args:
        data_dir: folder that contains the file; None means the NOISEWORKS_DATA directory.
        radius: radius of the ball, in standard deviations. Points outside the ball are projected to its surface.
    """

    dim = 23

    def __init__(self, data_dir: str | None = None, radius: float = 6.0) -> None:
        super().__init__(radius)
        self.data_dir = data_dir

    def rows(self) -> Array:
        path = Path(data_directory(self.data_dir, "CreditDefault"), "UCI_Credit_Card.csv")
        table = read_numbers(path, "CreditDefault")
        if len(table.columns) != self.dim + 2:
            raise ValueError(
                f"CreditDefault: {path} must have {self.dim + 2} columns, ID, {self.dim} features and the label, "
                f"got {len(table.columns)}"
            )
        return table.iloc[:, 1:-1].to_numpy()


class NoisedPoints(TableSet):
    """Points X_0, diffused to a time t: X_t = a X_0 + sqrt(h) n, with a = exp(-g t / 2) and h = 1 - a^2.

    Each row consists of `features`, z = (X_t, t - start, 1), and `target`, X_0. If the expected value E[X_0 | X_t] is
    known, it is `clean_target`. The noise n and the time t are sampled independently for each row. The time is uniform
    on [start, end].

    Args:
        law: distribution of X_0.
        samples: number N of training rows.
        test_samples: number of test rows, which is also the number of validation rows.
        g: rate of the diffusion.
        start: smallest time T_0; must be positive.
        end: largest time T, at most 1.
        seed: seed of the points, times and noise. None means the seed of the DataModule.
    """

    def __init__(
        self,
        law: PointDistribution,
        samples: int = 200,
        test_samples: int = 1000,
        g: float = 1.0,
        start: float = 0.1,
        end: float = 1.0,
        seed: int | None = None,
    ) -> None:
        at_least(1, samples=samples, test_samples=test_samples)
        positive(g=g, start=start)
        within(start, 1, "(]", end=end)
        self.law = law
        self.samples = samples
        self.test_samples = test_samples
        self.g = g
        self.start = start
        self.end = end
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.law.dim + 2,), "target": (self.law.dim,)}

    def training(self) -> Rows:
        return self._draw(self.samples, 0)

    def validation(self) -> Rows:
        return self._draw(self.test_samples, 1)

    def test(self) -> Rows:
        return self._draw(self.test_samples, 2)

    def _draw(self, count: int, split: int) -> Rows:
        random = np.random.default_rng([self.seed or 0, split])
        clean = self.law.draw(count, random, test=split > 0)
        t = random.uniform(self.start, self.end, (count, 1))
        a = np.exp(-self.g * t / 2)
        h = 1 - a**2
        x = a * clean + np.sqrt(h) * random.standard_normal(clean.shape)
        columns = {"features": np.concatenate([x, t - self.start, np.ones_like(t)], axis=1), "target": clean}
        if (mean := self.law.posterior_mean(x, a, h)) is not None:
            columns["clean_target"] = mean
        return Rows({name: torch.from_numpy(column) for name, column in columns.items()})
