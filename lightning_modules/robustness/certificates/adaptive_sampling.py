"""Certify with fewer noise samples than CERTIFY. The failure probability alpha is the same.

In every mode, prediction and radius in a row of the log are a valid certificate. Certified accuracy and mean radius of
a log are lower bounds. More samples could only increase these values. `abstained` is an upper bound, because more
samples would decide more images. `mean_draws` is the cost of the mode. The following lower bounds are close to the
numbers of the published procedure:

    InputSpecific: the curve and the mean radius, up to `max_loss`.

    Anytime without a target: the curve and the mean radius, up to the gain of the omitted blocks.

    Stages, and Anytime with a target: certified accuracy at the target radius only; the mean radius is also loose.

    Curve: certified accuracy at the radii of the grid only; the mean radius is also loose.

The `outcome` of a row is the reason why sampling stopped: `complete` (CERTIFY with all samples), `planned` (CERTIFY
with a precomputed number of samples), `certified` or `refuted` (at the target radius), `placed` (on the grid), `little
gain`, `out of draws`, or `wrong class`. The outcome `wrong class` certifies nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.arguments import at_least, positive, within
from lightning_modules.robustness.certificates.modes import (
    BLOCK,
    ESTIMATION,
    SELECTION,
    Certificate,
    Certifying,
    Draws,
    Mode,
    Radius,
    Votes,
    claim,
    estimate,
    select,
)
from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    anytime_lower,
    anytime_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
    input_specific_draws,
    one_sided_anytime_lower,
    one_sided_anytime_upper,
)

SEQUENCE_SHARE, FINAL_SHARE = 0.8, 0.2
"""Shares of alpha for the confidence sequence of `Curve` and for its bound at the last sample."""


def next_look(n: int) -> int:
    """Return the number of samples at the next evaluation of the votes.

    It is 5 % larger, rounded to whole blocks.
    """
    return n + max(BLOCK, n // (20 * BLOCK) * BLOCK)


def ends(bound: Callable[[int, int, float], float], hits: Votes, n: int, level: float) -> list[float]:
    """Bound the class probability in each stream.

    All bounds hold jointly with probability 1 - level.

    Args:
        bound: function that computes the bound of a stream from its hits, number of samples and level.
        hits: number of votes for the class in each stream, `[S]`.
        n: number of samples.
        level: probability that at least one bound is wrong.
    """
    return [bound(int(k), n, level / len(hits)) for k in hits]


@dataclass(frozen=True)
class Stages(Mode):
    """Decide whether a target radius is certified, in stages with more and more samples.

    Stage i has its own selection samples and n_i estimation samples. Each of s stages certifies at level alpha / s, so
    that all claims hold jointly. A stage gives up if its selected class does not reach the radius, according to an
    upper bound at level beta / (s - 1). Giving up never makes a certificate invalid, but the loss of power can exceed
    beta. If two classes are about equally probable, a stage often selects the wrong class, and then gives up correctly.
    The radius in a row is the radius of the final stage, which is a valid lower bound.

    Source: Horvath, Mueller, Fischer and Vechev, Boosting Randomized Smoothing with Variance Reduced Classifiers,
    ICLR 2022, arXiv 2106.06946.

    Args:
        radius: target radius, in pixel units.
        n0: number of selection samples per stage.
        n: number of estimation samples of each stage.
        alpha: probability that a certificate is wrong.
        beta: probability that at least one stage gives up on a class that reaches the radius.
    """

    radius: float
    n0: int = 100
    n: tuple[int, ...] = (100, 1000, 10_000, 120_000)
    alpha: float = 0.001
    beta: float = 0.0001
    name = "stages"

    def __post_init__(self) -> None:
        at_least(0, radius=self.radius)
        at_least(
            1, n0=self.n0, **{"the length of n": len(self.n)}, **{f"n[{stage}]": n for stage, n in enumerate(self.n)}
        )
        within(0, 1, "()", alpha=self.alpha, beta=self.beta)

    def certify(self, radius: Radius, label: int) -> Certifying:
        draws, last = 0, len(self.n) - 1
        for stage, n in enumerate(self.n):
            selected = yield from select(self.n0, 2 * stage + SELECTION)
            hits, p_lower = yield from estimate(selected, n, self.alpha / len(self.n), 2 * stage + ESTIMATION)
            draws += self.n0 + n
            certified = radius(p_lower) >= self.radius
            given_up = False
            if stage < last:
                p_upper = clopper_pearson_upper(hits, n, self.beta / last / len(hits)).tolist()
                given_up = not certified and not radius(p_upper) >= self.radius
            if certified or given_up or stage == last:
                break
        outcome = "certified" if certified else "refuted" if given_up else "out of draws"
        return claim(outcome, selected, hits, n, p_lower, radius, draws, stage + 1)


@dataclass(frozen=True)
class InputSpecific(Mode):
    """Run CERTIFY with as few samples as possible.

    The radius is nearly as large as with `n_max` samples. The selection samples give a rough estimate of the class
    probability. From this estimate follows how many new samples lose at most `max_loss` of the radius. This number does
    not depend on the new samples. The published formula of the radius therefore stays valid.

    Source: Chen, Li, Yan, Li and Sheng, Input-Specific Robustness Certification for Randomized Smoothing, AAAI 2022,
    arXiv 2112.12084.

    Args:
        max_loss: maximum loss of radius compared with `n_max` samples, in pixel units; if `relative`, as a fraction.
        relative: interpret `max_loss` as a fraction.
        n0: number of selection samples, which also determine the number of estimation samples.
        n_max: maximum number of estimation samples.
        alpha: probability that a certificate is wrong.
        pilot_alpha: probability of a loss above `max_loss`; certificates are valid regardless.
    """

    max_loss: float = 0.05
    relative: bool = False
    n0: int = 100
    n_max: int = 100_000
    alpha: float = 0.001
    pilot_alpha: float = 0.05
    name = "iss"

    def __post_init__(self) -> None:
        positive(max_loss=self.max_loss)
        at_least(1, n0=self.n0, n_max=self.n_max)
        within(0, 1, "()", alpha=self.alpha, pilot_alpha=self.pilot_alpha)
        object.__setattr__(self, "_planned", {})  # cache: number of samples by radius and pilot hits

    def certify(self, radius: Radius, label: int) -> Certifying:
        votes = yield Draws(SELECTION, 0, self.n0)
        selected = int(votes.sum(axis=0).argmax())
        pilot = radius, tuple(votes[:, selected].tolist())
        planned: dict[tuple[Radius, tuple[int, ...]], int] = self._planned  # type: ignore[attr-defined]
        if pilot not in planned:
            rates = self.alpha, self.pilot_alpha, self.max_loss, self.relative
            planned[pilot] = input_specific_draws(pilot[1], self.n0, self.n_max, BLOCK, *rates, radius)
        n = planned[pilot]
        hits, p_lower = yield from estimate(selected, n, self.alpha)
        outcome = "complete" if n == self.n_max else "planned"
        return claim(outcome, selected, hits, n, p_lower, radius, self.n0 + n)


@dataclass(frozen=True)
class Anytime(Mode):
    """Stop as soon as a confidence sequence decides the question.

    The sequence is valid for all numbers of samples. With `radius`, the question is whether this radius is certified.
    Without `radius`, sampling stops when the radius reaches `largest_radius`, when the class is shown to have no
    majority, or when another block of samples is expected to add less than `least_gain`. The radius in a row of the log
    is a valid lower bound.

    Source: Voracek, NeurIPS 2024, arXiv 2406.17830, with threshold log(1/alpha), the strictly one-sided level.

    Args:
        radius: target radius, in pixel units; None estimates the full radius.
        n0: selection samples.
        n_max: maximum number of estimation samples.
        alpha: probability that a certificate is wrong.
        largest_radius: radius at which sampling stops without a target, in pixel units.
        least_gain: sampling stops when the expected gain of radius from the next 100 samples is smaller, in pixel
            units.
    """

    radius: float | None = None
    n0: int = 100
    n_max: int = 100_000
    alpha: float = 0.001
    largest_radius: float = float("inf")
    least_gain: float = 1e-4
    name = "anytime"

    def __post_init__(self) -> None:
        at_least(0, radius=self.radius, least_gain=self.least_gain)
        at_least(1, n0=self.n0, n_max=self.n_max)
        positive(largest_radius=self.largest_radius)
        within(0, 1, "()", alpha=self.alpha)

    def certify(self, radius: Radius, label: int) -> Certifying:
        target = self.largest_radius if self.radius is None else self.radius
        hopeless = 0.0 if self.radius is None else self.radius
        selected = yield from select(self.n0)
        hits, n, outcome = np.zeros(1, dtype=np.int64), 0, ""
        while not outcome:
            start, n = n, min(next_look(n), self.n_max)
            votes = yield Draws(ESTIMATION, start, n)
            hits = hits + votes[:, selected]
            p_lower = ends(anytime_lower, hits, n, self.alpha)
            certified = radius(p_lower)
            if certified >= target:
                outcome = "certified"
            elif not radius(ends(anytime_upper, hits, n, self.alpha)) >= hopeless:
                outcome = "refuted"
            elif n == self.n_max:
                outcome = "out of draws"
            elif self.radius is None and certified >= 0:
                # Hits are not rounded, which could change the radius by as much as the gain.
                expected = [anytime_lower(int(k) * (n + BLOCK) / n, n + BLOCK, self.alpha / len(hits)) for k in hits]
                if radius(expected) - certified < self.least_gain:
                    outcome = "little gain"
        return claim(outcome, selected, hits, n, p_lower, radius, self.n0 + n)


@dataclass(frozen=True)
class Curve(Mode):
    """Estimate certified accuracy at the radii 0, `grid`, 2 `grid`, ... with as few samples as possible.

    The place of an image is the largest grid radius up to which the image is certified.

    If the selected class is not the label, sampling stops after selection. The image then counts at no radius.
    Otherwise sampling stops when one-sided confidence sequences put the radius between two adjacent grid radii. It also
    stops when no outcome of the remaining samples could increase the place.

    The confidence sequence uses the fraction `SEQUENCE_SHARE` of alpha. The rest of alpha is for the Clopper-Pearson
    bound at `n_max` samples. At that number, this bound is tighter. The radius in a row of the log is the place, a
    valid lower bound. At the grid radii, the accuracy of the log is a valid lower bound of the certified accuracy of
    the smoothed classifier. A row of the log with the wrong class certifies nothing.

    Args:
        grid: spacing of the radii, in pixel units.
        n0: selection samples.
        n_max: maximum number of estimation samples.
        alpha: probability that a certificate is wrong.
        beta: probability of placing an image too low; this never makes a certificate invalid.
    """

    grid: float = 0.25
    n0: int = 100
    n_max: int = 100_000
    alpha: float = 0.001
    beta: float = 0.001
    name = "curve"

    def __post_init__(self) -> None:
        positive(grid=self.grid)
        at_least(1, n0=self.n0, n_max=self.n_max)
        within(0, 1, "()", alpha=self.alpha, beta=self.beta)

    def certify(self, radius: Radius, label: int) -> Certifying:
        selected = yield from select(self.n0)
        if selected != label:
            return Certificate(ABSTAIN, 0.0, outcome="wrong class", selected=selected, draws=self.n0)
        hits, n, outcome, p_lower = np.zeros(1, dtype=np.int64), 0, "", np.zeros(1)
        while not outcome:
            start, n = n, min(next_look(n), self.n_max)
            votes = yield Draws(ESTIMATION, start, n)
            hits = hits + votes[:, selected]
            p_lower = np.maximum(p_lower, self._lower(hits, n))  # the bounds at all n hold jointly
            place = self._place(radius(p_lower.tolist()))
            if self._place(radius(ends(one_sided_anytime_upper, hits, n, self.beta))) <= place:
                outcome = "placed"
            elif n == self.n_max or self._place(radius(self._best_end(hits, n))) <= place:
                outcome = "out of draws"
        return claim(outcome, selected, hits, n, p_lower.tolist(), lambda _: round(place * self.grid, 10), self.n0 + n)

    def _lower(self, hits: Votes, n: int) -> list[float]:
        """Compute a lower bound of the class probability in each stream after n samples."""
        lower = ends(one_sided_anytime_lower, hits, n, SEQUENCE_SHARE * self.alpha)
        if n < self.n_max:
            return lower
        at_end = ends(_clopper_pearson, hits, n, FINAL_SHARE * self.alpha)
        return [max(p, q) for p, q in zip(lower, at_end, strict=True)]

    def _best_end(self, hits: Votes, n: int) -> list[float]:
        """Compute the lower bound of each stream at `n_max` samples if all remaining samples are hits."""
        return self._lower(hits + (self.n_max - n), self.n_max)

    def _place(self, radius: float) -> float:
        """Return the index of the largest grid radius that is at most `radius`, or -1 without a certificate."""
        return float(np.floor(radius / self.grid)) if radius >= 0 else -1.0


def _clopper_pearson(hits: int, n: int, alpha: float) -> float:
    return float(clopper_pearson_lower(hits, n, alpha))
