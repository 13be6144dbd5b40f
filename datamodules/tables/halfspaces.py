"""Points from several distributions, labelled by a halfspace with label noise, for tester-learners."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from datamodules.arguments import at_least, one_of, positive
from datamodules.corruptions.value_noise import SignFlips
from datamodules.tables.table_set import Rows, TableSet

Array = NDArray[np.float64]

GAP = 0.4
"""Distance by which points of the distribution `gap` are moved away from x_1 = 0, before they are rescaled."""


def _gap(shape: tuple[int, int], random: np.random.Generator) -> Array:
    x = random.standard_normal(shape)
    second_moment = 1 + 2 * GAP * math.sqrt(2 / math.pi) + GAP**2
    x[:, 0] = (x[:, 0] + np.sign(x[:, 0]) * GAP) / math.sqrt(second_moment)
    return x


def _heavy(shape: tuple[int, int], random: np.random.Generator) -> Array:
    normal = random.standard_normal(shape)
    return normal / np.sqrt(random.chisquare(3, (shape[0], 1)))  # Student's t: 3 degrees of freedom, covariance 3 I


def ball_std(dim: int) -> float:
    """Return the standard deviation of a coordinate of vectors from N(0, I) that lie in the ball of radius sqrt(D)."""
    return math.sqrt(chi2.cdf(dim, dim + 2) / chi2.cdf(dim, dim))


def normal_in_ball(shape: tuple[int, int], random: np.random.Generator) -> Array:
    """Sample points `[N, D]` from N(0, I) restricted to the ball of radius sqrt(D), and divide them by `ball_std`.

    The resulting distribution is strongly log-concave and has covariance I.
    """
    x = random.standard_normal(shape)
    while len(outside := np.flatnonzero((x**2).sum(1) > shape[1])):
        x[outside] = random.standard_normal((len(outside), shape[1]))
    return x / ball_std(shape[1])


LAWS: Mapping[str, Callable[[tuple[int, int], np.random.Generator], Array]] = {
    "gaussian": lambda shape, random: random.standard_normal(shape),
    "gap": _gap,
    "heavy": _heavy,
    "mixture": lambda shape, random: random.choice([0.2, 1.4], (shape[0], 1)) * random.standard_normal(shape),
    "ball": normal_in_ball,
    "uniform": lambda shape, random: random.uniform(-math.sqrt(3), math.sqrt(3), shape),
}
"""For each name of a distribution with covariance I, the function that samples points `[N, D]` from it."""


class Halfspaces(TableSet):
    """Rows with `features` x, `clean_target` sign<w*, x> and a noisy label `target`. The direction w* is random.

    Half of the `samples` rows are for training, and the other half for validation. `test_samples` additional rows are
    for testing.

    Args:
        flips: label noise, either Massart or adversarial.
        dim: dimension D of x.
        samples: number of training rows plus number of validation rows.
        marginal: distribution of x, with covariance I: `gaussian`, `gap` (no mass near x_1 = 0; here, w* = e_2),
            `heavy` (Student's t with 3 degrees of freedom), `mixture` (of normal distributions with standard deviations
            0.2 and 1.4), `ball` (N(0, I) restricted to the ball of radius sqrt(D), then rescaled) or `uniform` (on a
            cube).
        test_samples: number of test rows.
        seed: seed of w*, the points and the label flips. None means the seed of the DataModule.
    """

    def __init__(
        self,
        flips: SignFlips,
        dim: int = 10,
        samples: int = 50_000,
        marginal: Literal["gaussian", "gap", "heavy", "mixture", "ball", "uniform"] = "gaussian",
        test_samples: int = 20_000,
        seed: int | None = None,
    ) -> None:
        at_least(2, dim=dim, samples=samples)
        positive(test_samples=test_samples)
        one_of(LAWS, marginal=marginal)
        self.flips = flips
        self.dim = dim
        self.samples = samples
        self.marginal = marginal
        self.test_samples = test_samples
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,), "target": (), "clean_target": ()}

    def training(self) -> Rows:
        return self._draw(self.samples // 2, 0)

    def validation(self) -> Rows:
        return self._draw(self.samples - self.samples // 2, 1)

    def test(self) -> Rows:
        return self._draw(self.test_samples, 2)

    def _draw(self, count: int, split: int) -> Rows:
        w_true = np.random.default_rng([self.seed or 0, 3]).standard_normal(self.dim)
        w_true = np.eye(self.dim)[1] if self.marginal == "gap" else w_true / np.linalg.norm(w_true)
        random = np.random.default_rng([self.seed or 0, split])
        features = LAWS[self.marginal]((count, self.dim), random)
        margin = features @ w_true
        clean = np.where(margin >= 0, 1.0, -1.0)
        target = np.where(self.flips.flips(features, margin, random), -clean, clean)
        columns = {"features": features, "target": target, "clean_target": clean}
        truth = {"w_true": torch.from_numpy(w_true)}
        return Rows({name: torch.from_numpy(column) for name, column in columns.items()}, truth)
