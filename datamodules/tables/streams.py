"""Streams whose distribution drifts: random losses with known means, and images whose classes drift.

Each row of the table is one round of the stream. If the expected loss is known, it has the form F_t(x) = curvature
||x||^2 / 2 + <mean_gradient_t, x> + const.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.arguments import at_least, one_of, only_with, positive
from datamodules.classification.image_sets import ImageSet
from datamodules.tables.table_set import Rows, TableSet

Array = NDArray[np.float64]


def stream(columns: Mapping[str, Array], curvature: float) -> Rows:
    """Build table rows from arrays. The ground truth of the rows contains the curvature."""
    truth = {"curvature": torch.tensor(curvature, dtype=torch.float64)}
    return Rows({name: torch.from_numpy(column) for name, column in columns.items()}, truth)


class LinearLosses(TableSet):
    """Linear losses <z_t, x> with `features` z_t = mu_t + noise, ||mu_t|| = 1 and noise from N(0, sigma^2 / d I).

    The noise is clipped to norm 3 sigma. All gradient norms are therefore at most G = 1 + 3 sigma. The mean mu_t
    rotates in a plane (`turns`), jumps to new directions (`jumps`) or changes its sign at random (`signs`).

    Args:
        rounds: number T of rounds.
        dim: dimension d of x.
        sigma: root-mean-square norm of the noise before clipping.
        drift: kind of drift of mu_t: `turns`, `jumps` or `signs`.
        changes: number of full rotations (`turns`) or of different directions (`jumps`) in the whole stream. With 0,
            mu_t is constant.
        seed: seed of the drift and the noise. None means the seed of the DataModule.
    """

    def __init__(
        self,
        rounds: int = 4000,
        dim: int = 5,
        sigma: float = 0.1,
        drift: Literal["turns", "jumps", "signs"] = "turns",
        changes: float = 8,
        seed: int | None = None,
    ) -> None:
        at_least(1, rounds=rounds)
        at_least(2, dim=dim)
        at_least(0, sigma=sigma, changes=changes)
        one_of(("turns", "jumps", "signs"), drift=drift)
        only_with("drift turns or jumps", drift != "signs", LinearLosses, changes=changes)
        self.rounds = rounds
        self.dim = dim
        self.sigma = sigma
        self.drift = drift
        self.changes = changes
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,), "mean_gradient": (self.dim,), "gradient_noise": ()}

    def training(self) -> Rows:
        random = np.random.default_rng(self.seed or 0)
        mean = self._means(random)
        noise = random.standard_normal(mean.shape) * self.sigma / math.sqrt(self.dim)
        length = np.linalg.norm(noise, axis=1, keepdims=True)
        noise *= np.minimum(1, 3 * self.sigma / np.maximum(length, 1e-300))
        variance = np.full(self.rounds, self.sigma**2)
        return stream({"features": mean + noise, "mean_gradient": mean, "gradient_noise": variance}, 0.0)

    def test(self) -> Rows:
        return self.training()

    def _means(self, random: np.random.Generator) -> Array:
        mean = np.zeros((self.rounds, self.dim))
        if self.drift == "turns":
            angle = 2 * np.pi * self.changes * np.arange(self.rounds) / self.rounds
            mean[:, 0], mean[:, 1] = np.cos(angle), np.sin(angle)
        elif self.drift == "signs":
            mean[:, 0] = random.choice([-1.0, 1.0], self.rounds)
        else:
            directions = random.standard_normal((max(1, round(self.changes)), self.dim))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            mean[:] = directions[np.arange(self.rounds) * len(directions) // self.rounds]
        return mean


class StagedRegression(TableSet):
    """Linear regression of `target` on `features`. The true parameter is piecewise constant over time.

    Features are uniform in a ball of radius `length`. In each stage, the parameter has a random direction, and its norm
    is uniform in [0, radius]. The targets contain Gaussian noise.

    Args:
        rounds: number T of rounds.
        dim: dimension d of x.
        stages: number of stages of equal length. The true parameter is constant within a stage.
        radius: maximum norm of the true parameter.
        length: maximum norm of the features.
        noise: standard deviation of the noise on the targets.
        seed: seed of all random numbers. None means the seed of the DataModule.
    """

    def __init__(
        self,
        rounds: int = 20_000,
        dim: int = 10,
        stages: int = 10,
        radius: float = 1.0,
        length: float = 1.0,
        noise: float = 0.05,
        seed: int | None = None,
    ) -> None:
        at_least(1, rounds=rounds, dim=dim, stages=stages)
        positive(radius=radius, length=length)
        at_least(0, noise=noise)
        self.rounds = rounds
        self.dim = dim
        self.stages = stages
        self.radius = radius
        self.length = length
        self.noise = noise
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,), "target": (), "mean_gradient": (self.dim,), "gradient_noise": ()}

    def training(self) -> Rows:
        random, d = np.random.default_rng(self.seed or 0), self.dim
        features = _directions(random, self.rounds, d) * self.length * random.random((self.rounds, 1)) ** (1 / d)
        parameters = _directions(random, self.stages, d) * self.radius * random.random((self.stages, 1))
        true = parameters[np.arange(self.rounds) // math.ceil(self.rounds / self.stages)]
        target = (features * true).sum(1) + self.noise * random.standard_normal(self.rounds)
        curvature = self.length**2 / (d + 2)  # E phi phi^T = curvature * I
        farthest = self.radius + np.linalg.norm(true, axis=1)
        variance = farthest**2 * (self.length**4 / (d + 4) - curvature**2) + self.noise**2 * d * curvature
        columns = {"features": features, "target": target, "mean_gradient": -curvature * true}
        return stream({**columns, "gradient_noise": variance}, curvature)

    def test(self) -> Rows:
        return self.training()


def _directions(random: np.random.Generator, count: int, dim: int) -> Array:
    vectors = random.standard_normal((count, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class DriftingClasses(TableSet):
    """Images with drifting class frequencies.

    In each row, `features` is a flattened image in [0, 1], and `target` is the class of the image.

    In round t, the probability of class k is proportional to exp(concentration cos(2 pi (turns t / rounds - k / K))).
    First, a class is sampled, then a random image of this class.

    Args:
        images: dataset in memory. Images are sampled from its training images.
        rounds: number T of rounds.
        turns: number of cycles through all classes.
        concentration: strength of the drift. With larger values, fewer classes occur at the same time. 0 means no
            drift.
        seed: seed of the classes and images. None means the seed of the DataModule.
    """

    def __init__(
        self, images: ImageSet, rounds: int, turns: float = 2.0, concentration: float = 3.0, seed: int | None = None
    ) -> None:
        at_least(1, rounds=rounds)
        at_least(0, turns=turns, concentration=concentration)
        self.images = images
        self.num_classes = images.num_classes
        self.rounds = rounds
        self.turns = turns
        self.concentration = concentration
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (math.prod(self.images.image_shape),), "target": ()}

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> Rows:
        source, random = self.images.training(), np.random.default_rng(self.seed or 0)
        turn = self.turns * np.arange(self.rounds)[:, None] / self.rounds
        angle = 2 * np.pi * (turn - np.arange(self.num_classes) / self.num_classes)
        share = np.exp(self.concentration * np.cos(angle)).cumsum(1)
        drawn = (random.random((self.rounds, 1)) * share[:, -1:] >= share).sum(1)
        label = source.label.numpy()
        by_class, counts = np.argsort(label, kind="stable"), np.bincount(label, minlength=self.num_classes)
        place = (random.random(self.rounds) * counts[drawn]).astype(int)  # position among the images of the class
        rows = torch.from_numpy(by_class[counts.cumsum()[drawn] - counts[drawn] + place])
        features = source.fetch(rows, None).double().flatten(1) / source.data_range
        return Rows({"features": features, "target": source.label[rows]})

    def test(self) -> Rows:
        return self.training()
