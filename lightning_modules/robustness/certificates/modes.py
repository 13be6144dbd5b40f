"""Sampling modes of certification: the published algorithms CERTIFY and PREDICT.

The `certify` method of a mode is a generator: it yields `Draws` to request votes, receives the vote counts, and returns
a `Certificate`. A mode has no access to the network or the device. Its decisions depend only on the vote counts.

A certificate states that the smoothed classifier g predicts the class `prediction` for every input within `radius` of
the image. The probability that the certificate of an image is wrong is at most alpha. The noise samples that select the
class are different from the noise samples that bound its probability.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least, within
from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    clopper_pearson_lower,
    empirical_bernstein_lower,
    predict_or_abstain,
)

BLOCK = 100
"""Number of noise samples per seed. Adaptive modes evaluate the votes after multiples of this number of samples."""

SCORE_UNITS = 2**20
"""Number of units in a score of 1. Scores are rounded to whole units, so that sums of scores are exact in any order."""

SELECTION, ESTIMATION = 0, 1
"""Indices of the two noise streams: one selects the class, and the other bounds the probability of this class."""

Votes = NDArray[np.int64]
"""Number of votes for each class in each of S streams, `[S, K]`; S is 1 unless several classifiers vote."""
Radius = Callable[[Sequence[float]], float]
"""Function from the lower bounds of all streams to the certified radius; a negative radius means no certificate."""


class Draws(NamedTuple):
    """A request for the votes on noise samples of the stream `stage`, from `start` up to but excluding `stop`."""

    stage: int
    start: int
    stop: int


@dataclass(frozen=True)
class Certificate:
    """The certificate of an image, and the vote counts on which it is based."""

    prediction: int
    """Predicted class, or `ABSTAIN`."""
    radius: float
    """Certified radius in pixel units; 0 if no radius is certified."""
    outcome: str
    """Why sampling stopped; see `adaptive_sampling.py`. Unless it is `complete`, more samples may raise the radius."""
    selected: int
    """Class with the most votes among the selection samples."""
    hits: tuple[float, ...] = ()
    """Number of estimation votes for `selected` in each stream; for `MeanProbability`, sums of this class's scores."""
    n: int = 0
    """Number of estimation samples."""
    p_lower: tuple[float, ...] = ()
    """Lower bound of the probability of `selected` in each stream."""
    draws: int = 0
    """Total number of noise samples for the image. Each sample is used in all streams."""
    stage: int = 0
    """Number of the stage at which sampling stopped; 0 is the selection stage."""


Certifying = Generator[Draws, Votes, Certificate]


class Mode(ABC):
    """Base class of sampling modes. A sampling mode is the procedure that certifies one image."""

    name: str
    alpha: float
    soft: ClassVar[bool] = False
    """Whether the mode receives sums of scores instead of votes. A score is a softmax probability in units of 1 /
    `SCORE_UNITS`, rounded down. In this case, the mode receives an array `[2 S, K]`: for each of the S streams, the
    sums of the scores; then, for each stream, the sums of the squared scores."""

    @property
    def settings(self) -> dict[str, Any]:
        """Name and arguments of the mode. All rows of a log must have the same settings."""
        return {"mode": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def certify(self, radius: Radius, label: int) -> Certifying:
        """Certify one image.

        Args:
            radius: function that maps lower bounds to the certified radius; the smoothed classifier defines it.
            label: label of the image; only `Curve` uses it.
        """


def select(n0: int, stage: int = SELECTION) -> Generator[Draws, Votes, int]:
    """Request the votes on `n0` samples, and return the class with the most votes.

    If several classes have the most votes, the one with the lowest index is returned.
    """
    votes = yield Draws(stage, 0, n0)
    return int(votes.sum(axis=0).argmax())


def estimate(
    selected: int, n: int, alpha: float, stage: int = ESTIMATION
) -> Generator[Draws, Votes, tuple[Votes, list[float]]]:
    """Request the votes on `n` samples, and bound the probability of the selected class.

    The result has, for each stream, the number of votes for the selected class, and the lower bound of its probability.
    """
    votes = yield Draws(stage, 0, n)
    hits = votes[:, selected]
    return hits, clopper_pearson_lower(hits, n, alpha / len(hits)).tolist()


def claim(
    outcome: str,
    selected: int,
    hits: NDArray[Any],
    n: int,
    p_lower: Sequence[float],
    radius: Radius,
    draws: int,
    stage: int = 1,
) -> Certificate:
    """Build a certificate from lower bounds of probabilities.

    The certificate abstains if the radius is negative.
    """
    certified = radius(p_lower)
    prediction, certified = (selected, certified) if certified >= 0 else (ABSTAIN, 0.0)
    counts = tuple(hits.tolist())
    return Certificate(prediction, certified, outcome, selected, counts, n, tuple(p_lower), draws, stage)


@dataclass(frozen=True)
class FixedSampling(Mode):
    """The published algorithm CERTIFY, with n estimation samples for every image.

    Args:
        n0: number of selection samples.
        n: number of estimation samples.
        alpha: maximum probability that a certificate is wrong.
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
class MeanProbability(Mode):
    """Certify the mean softmax of n samples instead of the votes, using the empirical Bernstein bound.

    The smoothed classifier is then g(x) = argmax_c E[softmax_c f(x + sigma e)]. The radii of this package hold for any
    score in [0, 1], not only for votes.

    Args:
        n0: number of selection samples.
        n: number of estimation samples, at most 4,194,304.
        alpha: maximum probability that a certificate is wrong.

    Sources: Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019,
    arXiv 1906.04584, for the radius of a mean score; Maurer and Pontil (2009) for the bound, see `statistics.py`.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    name = "mean_probability"
    soft = True

    def __post_init__(self) -> None:
        at_least(1, n0=self.n0)
        within(2, 2**22, n=self.n)  # sums of squares must fit in 63 bits
        within(0, 1, "()", alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        sums = yield Draws(SELECTION, 0, self.n0)
        streams = len(sums) // 2
        selected = int(sums[:streams].sum(axis=0).argmax())
        sums = yield Draws(ESTIMATION, 0, self.n)
        of_class = sums[:, selected] / np.repeat([SCORE_UNITS, SCORE_UNITS**2], streams)
        scores, squares = of_class[:streams], of_class[streams:]
        variance = np.maximum(squares - scores**2 / self.n, 0) / (self.n - 1)
        p_lower = empirical_bernstein_lower(scores / self.n, variance, self.n, self.alpha / streams).tolist()
        return claim("complete", selected, scores, self.n, p_lower, radius, self.n0 + self.n)


@dataclass(frozen=True)
class Predict(Mode):
    """The published algorithm PREDICT: predict the class of the smoothed classifier, without a radius.

    Args:
        n: number of samples.
        alpha: maximum probability that the prediction is not the class of the smoothed classifier.
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
                f"mode predict needs a smoothed classifier with a single vote, but this one has {len(votes)} votes: "
                "use mode fixed"
            )
        selected = int(votes[0].argmax())
        prediction, hits = predict_or_abstain(votes[0], self.alpha), (int(votes[0, selected]),)
        return Certificate(prediction, 0.0, "complete", selected, hits, n=self.n, draws=self.n)
