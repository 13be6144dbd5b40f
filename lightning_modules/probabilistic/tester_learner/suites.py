"""Three sets of statistical tests of the distribution of points; the default target is N(0, I).

`Bands` contains the tests T1 to T3 of `marginal_tests`, which are for Massart noise. `Strips` adds T4, which is for
adversarial label noise. Strip i contains the points with i sigma <= |<w, x>| < (i + 1) sigma, and the last strip has no
upper limit. Let z be defined as in `marginal_tests`. T4 has two statistics for each strip. For points from N(0, I),
both statistics tend to 0 as the number of points grows:

    fraction of points in the strip / that of N(0, I) - 1,    greatest eigenvalue of E[z z^T | strip] - 1.

If the normal vector of a second halfspace has the angle th to w, the two halfspaces differ only at points with |<v, z>|
>= |<w, x>| / tan th for some unit vector v. Let p_i be the masses of the strips, and c_i the greatest eigenvalues. The
fraction of points on which the two halfspaces differ is at most

    sum_i p_i min{1, c_i (tan th / (i sigma))^2},

which is O(th) if T4 passes and sigma is of the order of th. This bound holds for any distribution of x.

`GlobalMoments` is a baseline that compares the moments of degree 2 and 4 of all points with those of N(0, I). Like
earlier testers, this baseline uses neither the labels nor w.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of
from datamodules.tables.halfspaces import normal_in_ball
from lightning_modules.probabilistic.tester_learner.marginal_tests import (
    CAPS,
    ROWS_AT_ONCE,
    Moments,
    Reference,
    ball_reference,
    caps,
    complement,
    moments,
    pairs,
    statistic_names,
    statistics,
)

Target = Literal["normal", "ball"]
"""Target distribution: N(0, I), or its restriction to a ball, scaled to covariance I."""
FARTHEST = 2.0
"""The last strip begins at most at this distance from the hyperplane; later strips would contain few points."""
STRIP_CAP = 0.5
"""Maximum threshold of the statistics of a strip."""


@dataclass(frozen=True)
class Bands:
    """The tests T1 to T3, which use the covariance of all points, and mass and moments in bands around w's hyperplane.

    Args:
        sigma: width of the bands.
        degree: maximum degree of the moments, 2 or 4.
        target: distribution of points that the tests accept, `normal` or `ball` (see `normal_in_ball`).
    """

    sigma: float
    degree: int
    target: Target = "normal"

    uses_labels = True
    """Whether a large gradient norm also leads to rejection of the halfspace."""

    @property
    def names(self) -> list[str]:
        """Names of the statistics."""
        return statistic_names(self.degree)

    @property
    def caps(self) -> Tensor:
        """Maximum threshold of each statistic."""
        return caps(self.degree)

    def sums(self, features: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Compute sums over points x, `[N, d]`, for the unit vector w, `[d]`; the sums can be added over ranks."""
        return moments(features, weight, self.sigma, self.degree)

    def statistics(self, sums: tuple[Tensor, ...]) -> Tensor:
        """Compute the statistics, in the order of `names`, from the sums over the points of all ranks."""
        return statistics(Moments(*sums), self.sigma, self.degree, self._reference(len(sums[1])))

    def _reference(self, dim: int) -> Reference | None:
        return None if self.target == "normal" else ball_reference(self.sigma, dim)

    def points(self, samples: int, dim: int, generator: torch.Generator) -> Tensor:
        """Sample points from the target, `[samples, dim]`."""
        if self.target == "normal":
            return torch.randn(samples, dim, generator=generator, dtype=torch.float64)
        seed = int(torch.randint(2**31, (), generator=generator))
        return torch.from_numpy(normal_in_ball((samples, dim), np.random.default_rng(seed)))


@dataclass(frozen=True)
class Strips(Bands):
    """The tests T1 to T4, where T4 uses the mass and second moments in strips that cover all points."""

    @property
    def last(self) -> int:
        """Index of the last strip."""
        return max(1, int(FARTHEST / self.sigma))

    @property
    def names(self) -> list[str]:
        strips = [f"{name}_strip_{i}" for name in ("mass", "degree_2") for i in range(self.last + 1)]
        return statistic_names(self.degree) + strips

    @property
    def caps(self) -> Tensor:
        return torch.cat([caps(self.degree), torch.full((2 * self.last + 2,), STRIP_CAP, dtype=torch.float64)])

    def sums(self, features: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        strip = ((features @ weight).abs() / self.sigma).floor().clamp(max=self.last)
        z = features @ complement(weight)
        inside = [z[strip == i] for i in range(self.last + 1)]
        count = features.new_tensor([len(own) for own in inside])
        return (*super().sums(features, weight), count, torch.stack([own.T @ own for own in inside]))

    def statistics(self, sums: tuple[Tensor, ...]) -> Tensor:
        *others, count, outer = sums
        edges = [math.erf(i * self.sigma / math.sqrt(2)) for i in range(self.last + 1)] + [1.0]
        mass = count / others[0] / count.new_tensor(edges).diff() - 1
        greatest = torch.linalg.eigvalsh(outer / count.clamp(min=1)[:, None, None])[:, -1]
        return torch.cat([super().statistics(tuple(others)), mass, greatest - 1])


@dataclass(frozen=True)
class GlobalMoments(Bands):
    """A baseline that tests the moments of all points up to `degree`, independently of the labels and of w."""

    uses_labels = False

    @property
    def names(self) -> list[str]:
        return ["covariance", "degree_4"][: self.degree // 2]

    @property
    def caps(self) -> Tensor:
        return torch.tensor([CAPS[name] for name in self.names], dtype=torch.float64)

    def sums(self, features: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        parts = [pairs(part) for part in features.split(ROWS_AT_ONCE)] if self.degree == 4 else []
        fourth = sum((part.T @ part for part in parts), features.new_zeros(()))
        return features.new_tensor(len(features)), features.T @ features, fourth

    def statistics(self, sums: tuple[Tensor, ...]) -> Tensor:
        samples, outer, fourth = sums
        identity = torch.eye(len(outer)).to(outer)
        deviations = [outer / samples - identity]
        if self.degree == 4:
            unit = pairs(identity).sum(0)  # I as a vector
            deviations.append(fourth / samples - torch.outer(unit, unit) - 2 * torch.eye(len(unit)).to(unit))
        return torch.stack([torch.linalg.eigvalsh(each).abs().max() for each in deviations])


def suite_of(tests: bool | Literal["strips", "moments"], sigma: float, degree: int, target: Target = "normal") -> Bands:
    """Return `Strips` for `strips`, `GlobalMoments` for `moments`, and `Bands` otherwise."""
    if target != "normal" and not isinstance(tests, bool):
        raise ValueError(f"tests must be true or false with target {target}, got {tests}, which assumes N(0, I)")
    kind = {"strips": Strips, "moments": GlobalMoments}.get(str(tests), Bands)
    return kind(sigma, degree, target)


@cache
def simulate_statistics(suite: Bands, samples: int, dim: int, draws: int) -> Tensor:
    """Simulate samples from the target with a fixed seed, and compute their statistics, `[draws, K]`, on the CPU.

    Args:
        suite: tests whose statistics are sampled.
        samples: number of points in each simulated sample.
        dim: dimension d of the points.
        draws: number of simulated samples.
    """
    generator = generator_of(samples, dim, suite.degree)
    axis = torch.eye(dim, dtype=torch.float64)[0]
    sampled = (suite.points(samples, dim, generator) for _ in range(draws))
    return torch.stack([suite.statistics(suite.sums(points, axis)) for points in sampled])
