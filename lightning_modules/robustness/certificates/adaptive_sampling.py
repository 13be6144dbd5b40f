"""Sampling modes that need fewer noise samples than CERTIFY for the same failure probability alpha.

In every mode, the prediction and the radius in a row of the log are a valid certificate, except in rows with the
outcome `wrong class` (see below). The certified accuracy and the mean radius computed from a log are lower bounds,
which more samples could only increase. The fraction `abstained` is an upper bound, because with more samples, fewer
images would be undecided. `mean_draws`, the mean number of samples per image, measures the cost of the mode. The
following lower bounds are close to the values that CERTIFY gives:

    InputSpecific: the certified-accuracy curve and the mean radius, up to a difference of `max_loss`.

    Anytime without a target radius: the same curve and mean radius, up to the gain from the omitted blocks of samples.

    Stages, and Anytime with a target radius: only the certified accuracy at the target radius. The mean radius is
    loose.

    Curve: only the certified accuracy at the radii of the grid. The mean radius is loose.

The `outcome` of a row is the reason why sampling stopped: `complete` (CERTIFY with all samples), `planned` (CERTIFY
with a precomputed number of samples), `certified` or `refuted` (at the target radius), `placed` (located on the grid),
`little gain`, `out of draws`, or `wrong class`. A row with the outcome `wrong class` is not a certificate.
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
"""Fractions of alpha that `Curve` uses for its confidence sequence and for its bound at `n_max` samples."""


def next_look(n: int) -> int:
    """Return the number of samples at which the votes are evaluated next, if they were last evaluated at n samples.

    The increase is 5 % of n, rounded down to whole blocks, but at least one block.
    """
    return n + max(BLOCK, n // (20 * BLOCK) * BLOCK)


def ends(bound: Callable[[int, int, float], float], hits: Votes, n: int, level: float) -> list[float]:
    """Compute a bound of the class probability for each noise stream.

    All bounds hold jointly with a probability of at least 1 - level.

    Args:
        bound: function that computes the bound of a stream from the number of hits, the number of samples and the
            level.
        hits: number of votes for the class in each stream, `[S]`.
        n: number of samples.
        level: maximum probability that at least one bound is wrong.
    """
    return [bound(int(k), n, level / len(hits)) for k in hits]


@dataclass(frozen=True)
class Stages(Mode):
    """Decide in stages, with more and more samples, whether a target radius is certified.

    Stage i uses new selection samples and n_i new estimation samples. Each of the s stages certifies at level alpha /
    s. The probability of a wrong certificate over all stages is therefore at most alpha. A stage gives up on the image
    if an upper bound at level beta / (s - 1) shows that the selected class does not reach the target radius. Giving up
    never makes a certificate invalid. However, the probability of giving up on an image that could be certified can
    exceed beta: if two classes are about equally probable, a stage often selects the wrong class, and then correctly
    gives up on this class. The radius in the log comes from the last stage that ran, and is a valid lower bound.

    Source: Horvath, Mueller, Fischer and Vechev, Boosting Randomized Smoothing with Variance Reduced Classifiers,
    ICLR 2022, arXiv 2106.06946.

    Args:
        radius: target radius, in pixel units.
        n0: number of selection samples per stage.
        n: numbers n_1, n_2, ... of estimation samples, one per stage.
        alpha: maximum probability that a certificate is wrong.
        beta: maximum probability that at least one stage gives up although its selected class reaches the radius.
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

    The radius is nearly as large as with `n_max` estimation samples. The selection samples give a rough estimate of the
    class probability. From this estimate, the mode computes the number of estimation samples for which the radius is at
    most `max_loss` smaller than with `n_max` samples. This number does not depend on the estimation samples. Therefore,
    the published formula of the radius remains valid.

    Source: Chen, Li, Yan, Li and Sheng, Input-Specific Robustness Certification for Randomized Smoothing, AAAI 2022,
    arXiv 2112.12084.

    Args:
        max_loss: maximum decrease of the radius, compared with the radius for `n_max` samples. It is in pixel units or,
            if `relative` is true, a fraction of the radius for `n_max` samples.
        relative: whether `max_loss` is a fraction instead of a number of pixel units.
        n0: number of selection samples. Their votes also determine the number of estimation samples.
        n_max: maximum number of estimation samples.
        alpha: maximum probability that a certificate is wrong.
        pilot_alpha: maximum probability that the decrease exceeds `max_loss`. Certificates are valid in any case.
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
        # Cache from a radius function and the votes of the selection samples to the number of samples.
        object.__setattr__(self, "_planned", {})

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
    """Sample until a confidence sequence certifies or refutes a radius.

    The bounds of the confidence sequence hold simultaneously for all numbers of samples. With `radius`, sampling stops
    when this radius is certified or refuted. Without `radius`, sampling stops when the certified radius reaches
    `largest_radius`, when the votes show that the class has no majority, or when another block of samples is expected
    to increase the radius by less than `least_gain`. The radius in a row of the log is a valid lower bound.

    Source: Voracek, NeurIPS 2024, arXiv 2406.17830, with the threshold log(1/alpha) of a strictly one-sided level.

    Args:
        radius: target radius, in pixel units; None estimates the full radius.
        n0: number of selection samples.
        n_max: maximum number of estimation samples.
        alpha: maximum probability that a certificate is wrong.
        largest_radius: certified radius at which sampling stops if `radius` is None, in pixel units.
        least_gain: threshold in pixel units: sampling stops if the next 100 samples are expected to increase the radius
            by less than this value.
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
                # The expected number of hits is not rounded: rounding could change the radius by as much as the
                # expected gain.
                expected = [anytime_lower(int(k) * (n + BLOCK) / n, n + BLOCK, self.alpha / len(hits)) for k in hits]
                if radius(expected) - certified < self.least_gain:
                    outcome = "little gain"
        return claim(outcome, selected, hits, n, p_lower, radius, self.n0 + n)


@dataclass(frozen=True)
class Curve(Mode):
    """Estimate certified accuracy at the radii 0, `grid`, 2 `grid`, ... with as few samples as possible.

    The place of an image is the largest radius of the grid at which the image is certified.

    If the selected class is not the label, sampling stops after the selection, and the image does not count as
    certified at any radius. Otherwise, sampling stops when one-sided confidence sequences show that the radius lies
    between two adjacent radii of the grid. It also stops when no outcome of the remaining samples could increase the
    place.

    The lower confidence sequence uses the fraction `SEQUENCE_SHARE` of alpha. The Clopper-Pearson bound at `n_max`
    samples uses the rest of alpha; at this number of samples, it is tighter than the confidence sequence. The radius in
    a row of the log is the place, which is a valid lower bound. At the radii of the grid, the certified accuracy
    computed from the log is a valid lower bound of the certified accuracy of the smoothed classifier. If the class in a
    row of the log is wrong, the row is not a certificate.

    Args:
        grid: distance between two adjacent radii of the grid, in pixel units.
        n0: number of selection samples.
        n_max: maximum number of estimation samples.
        alpha: maximum probability that a certificate is wrong.
        beta: maximum probability that the place of an image is too small because of early stopping. Certificates are
            valid in any case.
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
        """Compute the lower bound that each stream has at `n_max` samples if all remaining samples are hits."""
        return self._lower(hits + (self.n_max - n), self.n_max)

    def _place(self, radius: float) -> float:
        """Return the index of the largest radius of the grid that is at most `radius`, or -1 for a negative radius."""
        return float(np.floor(radius / self.grid)) if radius >= 0 else -1.0


def _clopper_pearson(hits: int, n: int, alpha: float) -> float:
    return float(clopper_pearson_lower(hits, n, alpha))
