"""How many votes an image is given before it is certified: CERTIFY and PREDICT as published.

A mode is a coroutine: it asks for votes by yielding `Draws`, is sent their counts, and returns a `Certificate`. It
knows nothing of networks or devices, and what it decides depends on counts alone.

In every mode a certificate's claim, that g is constant, and equal to `prediction`, within `radius`, is wrong with
probability at most alpha, whatever the image. The class is chosen from draws of its own, never from those that bound
its probability.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """A request: the votes of draws `start` to `stop` of a stream of noise."""

    stage: int
    start: int
    stop: int


@dataclass(frozen=True)
class Certificate:
    """What is claimed of an image, and what it rests on."""

    prediction: int
    """The class, or `ABSTAIN`."""
    radius: float
    """In pixel units; 0 where nothing is claimed."""
    outcome: str
    """Why the draws ended, see `fewer_draws.py`. Unless it is `complete`, more draws might certify more."""
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
        """What a log of certificates must have in common."""
        return {"mode": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def certify(self, radius: Radius, label: int) -> Certifying:
        """Certifies one image.

        Args:
            radius: of the module that votes.
            label: the image's class; only `Curve` looks at it.
        """


def claim(selected: int, p_lower: Sequence[float], radius: Radius) -> tuple[int, float]:
    """The prediction and radius that lower bounds allow."""
    certified = radius(p_lower)
    return (selected, certified) if certified >= 0 else (ABSTAIN, 0.0)


def require_positive(**arguments: float) -> None:
    for key, value in arguments.items():
        if not value > 0:
            raise ValueError(f"{key} must be positive, got {value}")


def require_probability(**arguments: float) -> None:
    for key, value in arguments.items():
        if not 0 < value < 1:
            raise ValueError(f"{key} must be in (0, 1), got {value}")


@dataclass(frozen=True)
class Fixed(Mode):
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
        require_positive(n0=self.n0, n=self.n)
        require_probability(alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        votes = yield Draws(SELECTION, 0, self.n0)
        selected = int(votes.sum(axis=0).argmax())
        votes = yield Draws(ESTIMATION, 0, self.n)
        hits = votes[:, selected]
        p_lower = clopper_pearson_lower(hits, self.n, self.alpha / len(hits)).tolist()
        return Certificate(
            *claim(selected, p_lower, radius),
            outcome="complete",
            selected=selected,
            hits=tuple(hits.tolist()),
            n=self.n,
            p_lower=tuple(p_lower),
            draws=self.n0 + self.n,
            stage=1,
        )


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
        require_positive(n=self.n)
        require_probability(alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        votes = yield Draws(SELECTION, 0, self.n)
        if len(votes) > 1:
            raise ValueError(
                f"mode predict tests one vote, and this module's smoothed classifier adds {len(votes)}: use mode fixed"
            )
        selected = int(votes[0].argmax())
        return Certificate(
            predict(votes[0], self.alpha),
            radius=0.0,
            outcome="complete",
            selected=selected,
            hits=(int(votes[0, selected]),),
            n=self.n,
            draws=self.n,
        )
