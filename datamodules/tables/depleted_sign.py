"""Two classes of points with low density near the class boundary.

For perceptrons that are trained on such data, the scaling exponents are known.

    |x_1| ~ |x_1|^chi exp(-x_1^2 / 2),   x_2 ... x_d ~ N(0, 1),   y = sign(x_1).

Source: Sclocchi, Geiger and Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML 2023,
arXiv 2301.13703.
"""

from collections.abc import Mapping

import numpy as np
import torch

from datamodules.arguments import at_least
from datamodules.tables.table_set import Rows, TableSet

TRAINING, TEST = 0, 1


class DepletedSign(TableSet):
    """Points in d dimensions, labelled by the sign of the first coordinate (-1 or 1).

    `features` are the points, `target` is the label, and `w_true` is the direction of the first coordinate. The test
    points are the same for all seeds.

    Args:
        num_points: number P of training points.
        dim: dimension d of a point.
        depletion: exponent chi of the density near the boundary, at least 0. With 0, the density is Gaussian.
        num_test: number of test points.
        seed: seed of the training points. None means the seed of the DataModule.
    """

    num_classes = 2

    def __init__(
        self, num_points: int, dim: int = 16, depletion: float = 0.0, num_test: int = 1000, seed: int | None = None
    ) -> None:
        at_least(1, num_points=num_points, num_test=num_test)
        at_least(2, dim=dim)
        at_least(0, depletion=depletion)
        self.num_points = num_points
        self.dim = dim
        self.depletion = depletion
        self.num_test = num_test
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,), "target": ()}

    def training(self) -> Rows:
        return self._draw(self.num_points, TRAINING, self.seed or 0)

    def test(self) -> Rows:
        return self._draw(self.num_test, TEST, 0)

    def _draw(self, count: int, split: int, seed: int) -> Rows:
        random = np.random.default_rng([seed, split])
        points = random.standard_normal((count, self.dim))
        sign = np.where(random.random(count) < 0.5, -1.0, 1.0)
        points[:, 0] = sign * np.sqrt(2 * random.gamma((self.depletion + 1) / 2, size=count))
        direction = torch.zeros(self.dim, dtype=torch.float64)
        direction[0] = 1
        return Rows({"features": torch.from_numpy(points), "target": torch.from_numpy(sign)}, {"w_true": direction})
