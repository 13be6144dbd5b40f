"""Certify with fewer draws than CERTIFY takes, at the same probability alpha that a certificate is wrong.

In every mode a row's prediction and radius is a certificate. Of a log's numbers, certified accuracy at any radius and
the mean radius are lower bounds of what more draws would certify; `abstained` is an upper bound, as more draws would
settle more images, and `mean_draws` is what the mode took and bounds nothing. Where the lower bounds are close to the
numbers of the published procedure:

    InputSpecific        the curve and the mean radius, up to the stated loss
    Anytime, no target   the curve and the mean radius, up to what the last blocks would have added
    Stages, Anytime      certified accuracy at the target; elsewhere it is loose, and so is the mean radius
    Curve                certified accuracy at the radii of the grid; elsewhere it is loose, and so is the mean radius

A row's `outcome` says why its draws ended: `complete` (CERTIFY with all its draws), `planned` (CERTIFY with a number
chosen before), `certified` or `refuted` (at the target), `placed` (on the grid), `little gain`, `out of draws`, and
`wrong class`, of which nothing is claimed.
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
"""How `Curve` divides alpha between its confidence sequence and the bound at its last draw."""


def next_look(n: int) -> int:
    """Number of draws at which the votes are looked at again: 5 % more, in whole blocks."""
    return n + max(BLOCK, n // (20 * BLOCK) * BLOCK)


def ends(bound: Callable[[int, int, float], float], hits: Votes, n: int, level: float) -> list[float]:
    """Bound the probability in each stream, so that all bounds hold together with probability 1 - level.

    Args:
        bound: maps hits, draws and the level of one stream to its bound.
        hits: `[S]`, votes for the class in each stream.
        n: number of draws.
        level: probability that any of the bounds is wrong.
    """
    return [bound(int(k), n, level / len(hits)) for k in hits]


@dataclass(frozen=True)
class Stages(Mode):
    """Decides whether a radius is certified, with more draws from stage to stage.

    Stage i has its own selection and n_i estimation draws. With s stages, each certifies at level alpha / s, so that
    all claims hold together. It gives up where an upper bound at level beta / (s - 1) shows that the class it selected
    does not reach the radius. That costs power only, but not only beta: where two classes are about equally probable,
    a stage often selects the other one, and gives that up rightly without asking a later stage. A row's radius is its
    last stage's, a valid lower bound.

    Source: Horvath, Mueller, Fischer and Vechev, Boosting Randomized Smoothing with Variance Reduced Classifiers,
    ICLR 2022, arXiv 2106.06946.

    Args:
        radius: the target, in pixel units.
        n0: draws that select the class, in each stage.
        n: draws that bound its probability, for each stage.
        alpha: probability that a certificate is wrong.
        beta: probability that any stage gives up a class which does reach the radius.
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
    """CERTIFY with as many draws as an image needs for a radius close to that of `n_max` draws.

    The selection draws tell roughly how probable the class is, and so how many fresh draws lose at most `max_loss`.
    The number depends on nothing that the certificate is computed from, and the radius is the published one for that
    number.

    Source: Chen, Li, Yan, Li and Sheng, Input-Specific Robustness Certification for Randomized Smoothing, AAAI 2022,
    arXiv 2112.12084.

    Args:
        max_loss: how much smaller the radius may be than after `n_max` draws: in pixel units, or a share if `relative`.
        relative: whether `max_loss` is a fraction.
        n0: draws that select the class and plan the rest.
        n_max: most draws that bound its probability.
        alpha: probability that a certificate is wrong.
        pilot_alpha: probability that the plan loses more than `max_loss`; no certificate depends on it.
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
        object.__setattr__(self, "_planned", {})  # draws, for each radius and outcome of the pilot that has occurred

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
    """Stops by a confidence sequence: as soon as a question is settled, however the draws went.

    With a `radius` the question is whether it is certified. Without, draws go on until the radius reaches
    `largest_radius`, the class is shown to have no majority, or another block of draws is expected to add less than
    `least_gain`. A row's radius is a valid lower bound.

    Source: Voracek, NeurIPS 2024, arXiv 2406.17830, with log(1/alpha) as threshold, the strictly one-sided level.

    Args:
        radius: the target, in pixel units; None asks for the whole radius.
        n0: draws that select the class.
        n_max: most draws that bound its probability.
        alpha: probability that a certificate is wrong.
        largest_radius: whole radius that is large enough, in pixel units.
        least_gain: least growth of the whole radius that 100 more draws are worth, in pixel units.
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
                # Not rounded to whole hits: that would move the radius by as much as the gain.
                expected = [anytime_lower(int(k) * (n + BLOCK) / n, n + BLOCK, self.alpha / len(hits)) for k in hits]
                if radius(expected) - certified < self.least_gain:
                    outcome = "little gain"
        return claim(outcome, selected, hits, n, p_lower, radius, self.n0 + n)


@dataclass(frozen=True)
class Curve(Mode):
    """The certified accuracy on a grid of radii, 0, `grid`, 2 `grid`, ..., with as few draws as it takes.

    An image gives the curve its place on the grid: the largest grid radius to which it is certified. Draws end

    * after selection, where the selected class is not the label: such an image counts at no radius;
    * when the place is settled: one-sided confidence sequences put the radius between two neighbours of the grid;
    * when no outcome of the draws that are left could move it up.

    `SEQUENCE_SHARE` of alpha goes to the sequence, the rest to Clopper and Pearson's bound at `n_max` draws, which is
    sharper there. A row's radius is its place, a valid lower bound, and the accuracy of the log is, at grid radii, a
    valid lower bound of the smoothed classifier's certified accuracy. A row whose class is wrong claims nothing.

    Args:
        grid: distance of neighbouring radii, in pixel units.
        n0: draws that select the class.
        n_max: most draws that bound its probability.
        alpha: probability that a certificate is wrong.
        beta: probability that an image is placed too low; costs power only.
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
            p_lower = np.maximum(p_lower, self._lower(hits, n))  # the bounds of all looks hold together
            place = self._place(radius(p_lower.tolist()))
            if self._place(radius(ends(one_sided_anytime_upper, hits, n, self.beta))) <= place:
                outcome = "placed"
            elif n == self.n_max or self._place(radius(self._best_end(hits, n))) <= place:
                outcome = "out of draws"
        return claim(outcome, selected, hits, n, p_lower.tolist(), lambda _: round(place * self.grid, 10), self.n0 + n)

    def _lower(self, hits: Votes, n: int) -> list[float]:
        """Lower bounds after n draws, one a stream."""
        lower = ends(one_sided_anytime_lower, hits, n, SEQUENCE_SHARE * self.alpha)
        if n < self.n_max:
            return lower
        at_end = ends(_clopper_pearson, hits, n, FINAL_SHARE * self.alpha)
        return [max(p, q) for p, q in zip(lower, at_end, strict=True)]

    def _best_end(self, hits: Votes, n: int) -> list[float]:
        """Lower bounds at `n_max` draws, one a stream, if all draws that are left were hits."""
        return self._lower(hits + (self.n_max - n), self.n_max)

    def _place(self, radius: float) -> float:
        """Number of the largest grid radius that is not larger; -1 where there is no radius."""
        return float(np.floor(radius / self.grid)) if radius >= 0 else -1.0


def _clopper_pearson(hits: int, n: int, alpha: float) -> float:
    return float(clopper_pearson_lower(hits, n, alpha))
