"""Samples from distributions without a density, such as points on a curve or a surface."""

import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import qmc

from datamodules.arguments import at_least, within
from datamodules.tables.table_set import Rows, TableSet

MOST_MATCHED = 1_500
"""Maximum size of a test set. The limit exists because matching test points to generated points has cubic cost."""


class SingularLaw(TableSet):
    """Base class of tables of points f*(u) plus Gaussian noise. The latent vectors u are uniform on the unit cube.

    No noise is added to test points. Their latent vectors fill the cube evenly (scrambled Sobol sequence).

    Args:
        samples: number n of training points.
        noise_std: standard deviation sigma* of the noise added to training and validation points.
        test_samples: number of test points, at most 1,500. The number of validation points is the same.
        seed: seed of the latent vectors and the noise. None means the seed of the DataModule.
    """

    latent_dim: int
    dim: int

    def __init__(
        self, samples: int = 200, noise_std: float = 0.0, test_samples: int = 1000, seed: int | None = None
    ) -> None:
        at_least(1, samples=samples)
        at_least(0, noise_std=noise_std)
        within(1, MOST_MATCHED, test_samples=test_samples)
        self.samples = samples
        self.noise_std = noise_std
        self.test_samples = test_samples
        self.seed = seed

    @abstractmethod
    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map latent vectors `[N, latent_dim]` in [0, 1] to points `[N, dim]`."""

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,)}

    def training(self) -> Rows:
        return self._draw(self.samples, 0)

    def validation(self) -> Rows:
        return self._draw(self.test_samples, 1)

    def test(self) -> Rows:
        sobol = qmc.Sobol(self.latent_dim, seed=np.random.default_rng([self.seed or 0, 2]))
        powers_of_two = sobol.random(2 ** math.ceil(math.log2(self.test_samples)))
        return Rows({"features": torch.from_numpy(self.points(powers_of_two[: self.test_samples]))})

    def _draw(self, count: int, split: int) -> Rows:
        random = np.random.default_rng([self.seed or 0, split])
        points = self.points(random.random((count, self.latent_dim)))
        return Rows({"features": torch.from_numpy(points + self.noise_std * random.standard_normal(points.shape))})


class Circle(SingularLaw):
    """Points on the unit circle in the plane."""

    latent_dim = 1
    dim = 2

    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        angle = 2 * math.pi * latent[:, 0]
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class CircleInSpace(Circle):
    """Points on the unit circle of a fixed random plane in ten dimensions."""

    dim = 10

    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        plane = np.linalg.qr(np.random.default_rng(0).standard_normal((self.dim, 2)))[0]
        return super().points(latent) @ plane.T


class ProductOfCircles(SingularLaw):
    """Points in four dimensions, whose two halves are independent points on the unit circle."""

    latent_dim = 2
    dim = 4

    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        angle = 2 * math.pi * latent
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)[:, [0, 2, 1, 3]]


class SwissRoll(SingularLaw):
    """Points (t cos t, 21 u, t sin t) / 10 on a rolled-up sheet, with u in [0, 1] and t in [1.5 pi, 4.5 pi]."""

    latent_dim = 2
    dim = 3

    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        angle = 1.5 * math.pi * (1 + 2 * latent[:, 0])
        return np.stack([angle * np.cos(angle), 21 * latent[:, 1], angle * np.sin(angle)], axis=1) / 10


class SmoothMap(SingularLaw):
    """Points B tanh(A z + b) in ten dimensions, with a fixed map and a standard normal z in two dimensions.

    The map is random but the same for all seeds. The entries of A, b and B are standard normal, and B is then divided
    by sqrt(16). The tanh layer has 16 outputs.
    """

    latent_dim = 2
    dim = 10

    def points(self, latent: NDArray[np.float64]) -> NDArray[np.float64]:
        random = np.random.default_rng(0)  # the map defines the distribution, so it is the same for all seeds
        inner, shift, outer = (random.standard_normal(shape) for shape in ((2, 16), (16,), (16, 10)))
        normal = ndtri(np.clip(latent, 1e-9, 1 - 1e-9))
        return np.tanh(normal @ inner + shift) @ outer / 4


class DigitVectors(TableSet):
    """scikit-learn's digits as points in 64 dimensions. The coordinates are grey values in [0, 1].

    Args:
        test_samples: number of held-out digits, at most 1,500.
        seed: seed of the split; None means the DataModule's seed.
    """

    def __init__(self, test_samples: int = 500, seed: int | None = None) -> None:
        within(1, MOST_MATCHED, test_samples=test_samples)
        self.test_samples = test_samples
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (64,)}

    def training(self) -> Rows:
        return self._part(slice(self.test_samples, None))

    def test(self) -> Rows:
        return self._part(slice(self.test_samples))

    def _part(self, part: slice) -> Rows:
        from sklearn.datasets import load_digits

        digits = load_digits().data / 16
        order = np.random.default_rng([self.seed or 0, 0]).permutation(len(digits))
        return Rows({"features": torch.from_numpy(digits[order[part]])})
