"""Sampling modes of certification: the published algorithms CERTIFY and PREDICT.

A mode is a coroutine. It requests votes by yielding `Draws`, receives the vote counts, and returns a `Certificate`. A
mode has no access to network or device. Its decisions depend only on the vote counts.

A certificate states that the smoothed classifier g equals `prediction` everywhere within `radius`. The certificate of
an image is wrong with probability at most alpha. The samples that select the class are separate from the samples that
bound its probability.
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
    predict,
)

BLOCK = 100
"""Samples per seed. Adaptive modes evaluate the votes at multiples of it."""

SCORE_UNITS = 2**20
"""Units per score of 1. Scores are whole numbers of units, so their sums are exact in any order."""

SELECTION, ESTIMATION = 0, 1
"""Noise streams: for selecting the class, and for bounding its probability."""

Votes = NDArray[np.int64]
"""Votes for each class in each of S streams, `[S, K]`; S is 1 unless several classifiers vote."""
Radius = Callable[[Sequence[float]], float]
"""Maps lower bounds of the class probability in each stream to the certified radius; negative means none."""


class Draws(NamedTuple):
    """A request for the votes on samples `start` to `stop` of a noise stream."""

    stage: int
    start: int
    stop: int


@dataclass(frozen=True)
class Certificate:
    """The certificate of an image, and the vote counts from which it follows."""

    prediction: int
    """Predicted class, or `ABSTAIN`."""
    radius: float
    """Certified radius in pixel units; 0 if nothing is claimed."""
    outcome: str
    """Reason for stopping, see `adaptive_sampling.py`. Unless it is `complete`, more samples might certify more."""
    selected: int
    """Class with the most votes among the selection samples."""
    hits: tuple[float, ...] = ()
    """Votes for that class among the estimation samples, in each stream. For `MeanProbability`, sums of scores."""
    n: int = 0
    """Number of estimation samples."""
    p_lower: tuple[float, ...] = ()
    """Lower bounds of the class probability in each stream."""
    draws: int = 0
    """Total number of samples for the image. One sample serves all streams."""
    stage: int = 0
    """Stage at which sampling stopped; 0 is selection."""


Certifying = Generator[Draws, Votes, Certificate]


class Mode(ABC):
    """A sampling mode: the procedure that certifies one image."""

    name: str
    alpha: float
    soft: ClassVar[bool] = False
    """Whether the mode receives sums of scores instead of votes: the softmax of the logits, rounded down to a whole
    number of `SCORE_UNITS`. The S sums `[2 S, K]` are followed by the S sums of squares."""

    @property
    def settings(self) -> dict[str, Any]:
        """Name and arguments of the mode, which must be the same for all rows of a log."""
        return {"mode": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def certify(self, radius: Radius, label: int) -> Certifying:
        """Certify one image.

        Args:
            radius: function that maps lower bounds to the certified radius; the module that votes defines it.
            label: label of the image; only `Curve` uses it.
        """


def select(n0: int, stage: int = SELECTION) -> Generator[Draws, Votes, int]:
    """Request `n0` votes, and return the class with the most votes.

    In a tie, return the lowest class.
    """
    votes = yield Draws(stage, 0, n0)
    return int(votes.sum(axis=0).argmax())


def estimate(
    selected: int, n: int, alpha: float, stage: int = ESTIMATION
) -> Generator[Draws, Votes, tuple[Votes, list[float]]]:
    """Request `n` votes.

    For each noise stream, return the number of votes for the selected class and its lower bound.
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
    """Build a certificate from lower bounds.

    Abstain if the radius is negative.
    """
    certified = radius(p_lower)
    prediction, certified = (selected, certified) if certified >= 0 else (ABSTAIN, 0.0)
    counts = tuple(hits.tolist())
    return Certificate(prediction, certified, outcome, selected, counts, n, tuple(p_lower), draws, stage)


@dataclass(frozen=True)
class FixedSampling(Mode):
    """CERTIFY as published, with n samples for every image.

    Args:
        n0: selection samples.
        n: estimation samples.
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
class MeanProbability(Mode):
    """Certify the mean softmax of n samples instead of their votes, with the empirical Bernstein bound.

    The smoothed classifier is then g(x) = argmax_c E[softmax_c f(x + sigma e)]. The radii of this package hold for any
    score in [0, 1], not only for votes.

    Args:
        n0: selection samples.
        n: estimation samples, at most 4,194,304.
        alpha: probability that a certificate is wrong.

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
    """PREDICT as published: predict the class of the smoothed classifier, without a radius.

    Args:
        n: number of samples.
        alpha: probability that the prediction is not the class of the smoothed classifier.
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
                f"mode predict needs a single vote, but this smoothed classifier has {len(votes)}: use mode fixed"
            )
        selected = int(votes[0].argmax())
        prediction, hits = predict(votes[0], self.alpha), (int(votes[0, selected]),)
        return Certificate(prediction, 0.0, "complete", selected, hits, n=self.n, draws=self.n)
