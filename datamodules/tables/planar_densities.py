"""Samples from distributions with known densities, on the line and in the plane."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.arguments import at_least
from datamodules.tables.table_set import Rows, TableSet


class DrawnPoints(TableSet):
    """Base class of tables of i.i.d. points.

    Args:
        samples: number of training points.
        test_samples: number of test points.
        seed: seed of the points. None means the seed of the DataModule.
    """

    dim = 2

    def __init__(self, samples: int = 5000, test_samples: int = 2000, seed: int | None = None) -> None:
        at_least(1, samples=samples, test_samples=test_samples)
        self.samples = samples
        self.test_samples = test_samples
        self.seed = seed

    @abstractmethod
    def points(self, count: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Sample points, `[count, dim]`."""

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,)}

    def truth(self) -> dict[str, torch.Tensor]:
        """Return the true parameters of the distribution, for metrics. The keys are those of the batch."""
        return {}

    def training(self) -> Rows:
        return self._draw(self.samples, 0)

    def test(self) -> Rows:
        return self._draw(self.test_samples, 1)

    def _draw(self, count: int, split: int) -> Rows:
        points = self.points(count, np.random.default_rng([self.seed or 0, split]))
        return Rows({"features": torch.from_numpy(points)}, self.truth())


class NormalNumbers(DrawnPoints):
    """Samples from N(mean, 1), for estimation of the mean.

    Args:
        mean: true mean R.
        samples: number of training points.
        test_samples: number of test points.
        seed: seed of the points. None means the seed of the DataModule.
    """

    dim = 1

    def __init__(
        self, mean: float = 4.0, samples: int = 10_000, test_samples: int = 2000, seed: int | None = None
    ) -> None:
        super().__init__(samples, test_samples, seed)
        self.mean = mean

    def points(self, count: int, random: np.random.Generator) -> NDArray[np.float64]:
        return self.mean + random.standard_normal((count, 1))

    def truth(self) -> dict[str, torch.Tensor]:
        return {"w_true": torch.tensor([self.mean], dtype=torch.float64)}


class TwoMoons(DrawnPoints):
    """Two interlocking half circles of radius 1.5, with Gaussian noise of standard deviation .12."""

    def points(self, count: int, random: np.random.Generator) -> NDArray[np.float64]:
        angle = np.pi * random.random(count)
        upper = random.random(count) < 0.5
        x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
        y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
        return 1.5 * (np.stack([x, y], axis=1) + 0.08 * random.standard_normal((count, 2)))


class EightGaussians(DrawnPoints):
    """Eight Gaussians with standard deviation .2, equally spaced on a circle of radius 2."""

    def points(self, count: int, random: np.random.Generator) -> NDArray[np.float64]:
        angle = 2 * np.pi * random.integers(8, size=count) / 8
        centres = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return centres + 0.2 * random.standard_normal((count, 2))
