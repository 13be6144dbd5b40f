"""Decide how many votes an image is given before it is certified: CERTIFY and PREDICT as published.

A mode is a coroutine: it asks for votes by yielding `Draws`, is sent their counts, and returns a `Certificate`. It
knows nothing of networks or devices, and decides by the counts alone.

In every mode a certificate says that the smoothed classifier g is constant, and equal to `prediction`, within `radius`.
It is wrong with probability at most alpha, whatever the image. The class is chosen from draws of its own, never from
those that bound its probability.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least, within
from lightning_modules.robustness.certificates.statistics import ABSTAIN, clopper_pearson_lower, predict

BLOCK = 100
"""Draws that share a seed. Modes that stop by themselves look at the votes at multiples of it."""

SELECTION, ESTIMATION = 0, 1
"""Streams of noise: for choosing the class, and for bounding its probability."""

Votes = NDArray[np.int64]
"""`[S, K]`: votes for each class in each of S streams; S is 1 unless several classifiers vote."""
Radius = Callable[[Sequence[float]], float]
"""The certified radius of lower bounds of the class's probability in each stream; negative where there is none."""


class Draws(NamedTuple):
    """A request for the votes of draws `start` to `stop` of a stream of noise."""

    stage: int
    start: int
    stop: int


@dataclass(frozen=True)
class Certificate:
    """A claim about an image, and the counts that it rests on."""

    prediction: int
    """The class, or `ABSTAIN`."""
    radius: float
    """In pixel units; 0 where nothing is claimed."""
    outcome: str
    """Why the draws ended, see `adaptive_sampling.py`. Unless it is `complete`, more draws might certify more."""
    selected: int
    """The class of most votes among the selection draws."""
    hits: tuple[int, ...] = ()
    """Votes of each stream for that class among the estimation draws."""
    n: int = 0
    """Estimation draws in which `hits` were counted."""
    p_lower: tuple[float, ...] = ()
    """Lower bounds of the class's probability in each stream."""
    draws: int = 0
    """Draws of all kinds that the image took. One draw passes through every stream."""
    stage: int = 0
    """The stage at which it ended: 0 is selection."""


Certifying = Generator[Draws, Votes, Certificate]


class Mode(ABC):
    """A way to certify one image."""

    name: str
    alpha: float

    @property
    def settings(self) -> dict[str, Any]:
        """Name and arguments, which all rows of a log must have in common."""
        return {"mode": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def certify(self, radius: Radius, label: int) -> Certifying:
        """Certify one image.

        Args:
            radius: the certified radius of lower bounds, as the voting module computes it.
            label: class of the image; only `Curve` looks at it.
        """


def select(n0: int, stage: int = SELECTION) -> Generator[Draws, Votes, int]:
    """Ask for `n0` votes and return the class of most of them, the lowest in a tie."""
    votes = yield Draws(stage, 0, n0)
    return int(votes.sum(axis=0).argmax())


def estimate(
    selected: int, n: int, alpha: float, stage: int = ESTIMATION
) -> Generator[Draws, Votes, tuple[Votes, list[float]]]:
    """Ask for `n` votes; return those for the selected class and its lower bounds, a number for each stream."""
    votes = yield Draws(stage, 0, n)
    hits = votes[:, selected]
    return hits, clopper_pearson_lower(hits, n, alpha / len(hits)).tolist()


def claim(
    outcome: str,
    selected: int,
    hits: Votes,
    n: int,
    p_lower: Sequence[float],
    radius: Radius,
    draws: int,
    stage: int = 1,
) -> Certificate:
    """Claim the class and the radius that lower bounds allow, or nothing where the radius is negative."""
    certified = radius(p_lower)
    prediction, certified = (selected, certified) if certified >= 0 else (ABSTAIN, 0.0)
    counts = tuple(hits.tolist())
    return Certificate(prediction, certified, outcome, selected, counts, n, tuple(p_lower), draws, stage)


@dataclass(frozen=True)
class FixedSampling(Mode):
    """CERTIFY, as published: n draws for every image.

    Args:
        n0: draws that select the class.
        n: draws that bound its probability.
        alpha: probability that a certificate is wrong.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    name = "fixed"

    def __post_init__(self) -> None:
        at_least(1, n0=self.n0, n=self.n)
        within(0, 1, "()", alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        selected = yield from select(self.n0)
        hits, p_lower = yield from estimate(selected, self.n, self.alpha)
        return claim("complete", selected, hits, self.n, p_lower, radius, self.n0 + self.n)


@dataclass(frozen=True)
class Predict(Mode):
    """PREDICT, as published: the smoothed classifier's class, without a radius.

    Args:
        n: draws.
        alpha: probability that a prediction is not the smoothed classifier's.
    """

    n: int = 1000
    alpha: float = 0.001
    name = "predict"

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        within(0, 1, "()", alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        votes = yield Draws(SELECTION, 0, self.n)
        if len(votes) > 1:
            raise ValueError(
                f"mode predict tests one vote, and this module's smoothed classifier adds {len(votes)}: use mode fixed"
            )
        selected = int(votes[0].argmax())
        prediction, hits = predict(votes[0], self.alpha), (int(votes[0, selected]),)
        return Certificate(prediction, 0.0, "complete", selected, hits, n=self.n, draws=self.n)
