"""Points with three patches: a strong feature, a weak feature and noise. Some points lack the strong feature.

    x = (y u, y v, xi),    y = -1 or 1,    u . v = 0,    xi ~ N(0, sigma_p^2 I) made orthogonal to u and v;

points that lack the strong feature have the zero vector instead of y u.

Source: Lu, Wu, Yang and Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rate, ICLR 2024,
arXiv 2310.17074.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.tables.table_set import Rows, TableSet

TRAINING, VALIDATION, TEST = range(3)


class FeatureNoise(TableSet):
    """Several training sets from the distribution of the module docstring, with common test points.

    Training row i contains the i-th point of every training set: the patches `features`, `[replicas, 3, dim]`, and the
    labels `target`, `[replicas]`, which are -1 or 1. A validation or test row contains only one point. Points without
    the strong feature come first. The vectors u and v lie along the first two axes. If the initial weights are
    isotropic, this choice does not restrict generality.

    Args:
        num_points: number n of points per training set.
        num_weak: number of points per training set that lack the strong feature.
        num_test: number of test points, which is also the number of validation points.
        num_weak_test: number of test points without the strong feature, which is also the number of such validation
            points.
        dim: dimension d of a patch.
        strong_norm: norm of u.
        weak_norm: norm of v.
        noise_std: standard deviation sigma_p of the noise.
        replicas: number of training sets.
        seed: seed of all points. None means the seed of the DataModule.
    """

    num_classes = 2

    def __init__(
        self,
        num_points: int = 16,
        num_weak: int = 2,
        num_test: int = 4000,
        num_weak_test: int = 2000,
        dim: int = 64,
        strong_norm: float = 1.0,
        weak_norm: float = 0.2,
        noise_std: float = 0.05,
        replicas: int = 1,
        seed: int | None = None,
    ) -> None:
        at_least(1, num_points=num_points, num_test=num_test, replicas=replicas)
        within(0, num_points, num_weak=num_weak)
        within(0, num_test, num_weak_test=num_weak_test)
        at_least(3, dim=dim)
        positive(strong_norm=strong_norm, weak_norm=weak_norm)
        at_least(0, noise_std=noise_std)
        self.num_points = num_points
        self.num_weak = num_weak
        self.num_test = num_test
        self.num_weak_test = num_weak_test
        self.dim = dim
        self.strong_norm = strong_norm
        self.weak_norm = weak_norm
        self.noise_std = noise_std
        self.replicas = replicas
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.replicas, 3, self.dim), "target": (self.replicas,)}

    @property
    def signals(self) -> Tensor:
        """The feature vectors u and v, `[2, dim]`, float64."""
        signals = torch.zeros(2, self.dim, dtype=torch.float64)
        signals[0, 0], signals[1, 1] = self.strong_norm, self.weak_norm
        return signals

    def training(self) -> Rows:
        return self._draw(self.num_points, self.num_weak, self.replicas, TRAINING)

    def validation(self) -> Rows:
        return self._draw(self.num_test, self.num_weak_test, 1, VALIDATION)

    def test(self) -> Rows:
        return self._draw(self.num_test, self.num_weak_test, 1, TEST)

    def _draw(self, count: int, num_weak: int, replicas: int, split: int) -> Rows:
        random = np.random.default_rng([self.seed or 0, split])
        target = torch.from_numpy(np.where(random.random((count, replicas)) < 0.5, -1.0, 1.0))
        features = torch.zeros(count, replicas, 3, self.dim, dtype=torch.float64)
        features[:, :, :2] = target[:, :, None, None] * self.signals
        features[:num_weak, :, 0] = 0
        noise = self.noise_std * random.standard_normal((count, replicas, self.dim - 2))
        features[:, :, 2, 2:] = torch.from_numpy(noise)
        return Rows({"features": features, "target": target})
