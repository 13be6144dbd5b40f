"""CERTIFY and PREDICT, and properties of every certification mode."""

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from scipy import stats

from lightning_modules.robustness.certificates import adaptive_sampling
from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, Stages
from lightning_modules.robustness.certificates.modes import (
    SCORE_UNITS,
    Draws,
    FixedSampling,
    MeanProbability,
    Mode,
)
from lightning_modules.robustness.certificates.statistics import ABSTAIN, gaussian_radius
from tests.robustness.certificates.simulated_votes import MODES, SIGMA, drive, unanimous, voter

every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


@pytest.fixture(autouse=True)
def bounds_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache the bounds, because the same few counts occur repeatedly."""
    names = ("anytime_lower", "anytime_upper", "one_sided_anytime_lower", "one_sided_anytime_upper", "_clopper_pearson")
    for name in names:
        monkeypatch.setattr(adaptive_sampling, name, cache(getattr(adaptive_sampling, name)))


def wrong_claims(mode: Mode, p: float, repeats: int) -> float:
    """Return the share of certificates that give the rare class, or a radius above sigma Phi^-1(p)."""
    random = np.random.default_rng(7)
    claims = [drive(mode, voter(p, random))[0] for _ in range(repeats)]
    truth = {0: gaussian_radius(p, SIGMA), 1: gaussian_radius(1 - p, SIGMA)}
    return float(np.mean([c.prediction != ABSTAIN and c.radius > truth[c.prediction] for c in claims]))


@every_mode
def test_every_mode_keeps_its_level(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true radius is just below a radius of the grid and the target, so that any overstatement is detected.

    As a control, a mode with a raised level must fail. After only a few looks, a confidence sequence is wrong much less
    often than its level allows. Therefore, the level of `Curve` is raised more, and `Anytime` gets a bound that is
    valid for a single look only.
    """
    p, repeats = float(stats.norm.cdf(0.3 / SIGMA)) - 1e-9, 2000
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert wrong_claims(mode, p, repeats) <= limit
    if isinstance(mode, Anytime):
        monkeypatch.setattr(adaptive_sampling, "anytime_lower", cache(adaptive_sampling._clopper_pearson))
    raised = replace(mode, alpha=(8 if isinstance(mode, Curve) else 2) * 0.05)  # type: ignore[type-var]
    assert wrong_claims(raised, p, repeats) > limit


@every_mode
@pytest.mark.parametrize("p", [0.4, 0.9, 0.993])
def test_claims_are_right_and_worth_something(mode: Mode, p: float) -> None:
    assert wrong_claims(mode, p, repeats=100) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    random = np.random.default_rng(8)
    if p > 0.8:
        claims = [drive(mode, voter(p, random))[0] for _ in range(30)]
        assert np.median([c.radius for c in claims]) > 0.5 * gaussian_radius(p, SIGMA)


@every_mode
def test_draws_are_fresh_counted_and_bounded(mode: Mode) -> None:
    for p in (0.45, 0.75, 0.9, 0.999):
        claim, requests = drive(mode, voter(p, np.random.default_rng(3)))
        seen: set[tuple[int, int]] = set()
        for stage, start, stop in requests:
            draws = {(stage, draw) for draw in range(start, stop)}
            assert draws
            assert not draws & seen
            seen |= draws
        assert claim.draws == len(seen)
        if claim.stage:
            assert claim.n == sum(stop - start for stage, start, stop in requests if stage == requests[-1].stage)


@every_mode
def test_selection_votes_never_bound_the_probability(mode: Mode) -> None:
    """Draws for selection vote for class 1, and draws for estimation for class 0, so class 1 is not certified."""
    claim, _ = drive(mode, lambda r: [[0, r.stop - r.start]] if r.stage % 2 == 0 else unanimous(r), label=1)
    assert (claim.selected, claim.hits, claim.prediction, claim.radius) == (1, (0,), ABSTAIN, 0.0)


def test_fixed_is_certify() -> None:
    def votes(hits: int, request: Draws) -> list:
        return [[hits, 1000 - hits]] if request.stage == 1 else [[5, 5]]

    for hits in (499, 504, 600, 1000):
        claim, requests = drive(FixedSampling(n0=10, n=1000, alpha=0.01), partial(votes, hits))
        assert requests == [Draws(0, 0, 10), Draws(1, 0, 1000)]
        assert claim.selected == 0  # the lowest class of a tie
        p = stats.beta.ppf(0.01, hits, 1000 - hits + 1)
        expected = (ABSTAIN, 0.0) if p < 0.5 else (0, pytest.approx(SIGMA * stats.norm.ppf(p), rel=1e-10))
        assert (claim.prediction, claim.radius) == expected


@pytest.mark.parametrize(("n", "cap"), [(1000, 2.463), (10_000, 3.199), (100_000, 3.811)])
def test_fixed_certifies_a_constant_classifier_to_the_largest_radius(n: int, cap: float) -> None:
    claim, _ = drive(FixedSampling(n=n), unanimous)
    assert claim.radius == pytest.approx(cap * SIGMA, abs=5e-4 * SIGMA)


def test_a_bound_of_exactly_one_half_is_no_abstention() -> None:
    claim, _ = drive(FixedSampling(n=1, n0=1, alpha=0.5), unanimous)
    assert (claim.prediction, claim.radius) == (0, 0.0)


@pytest.mark.parametrize(("n", "key"), [((), "the length of n"), ((10, 0), r"n\[1\]")])
def test_bad_stages_are_named(n: tuple[int, ...], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} must be"):
        Stages(radius=0.5, n=n)


def test_mean_probability_bounds_the_scores_of_each_stream_at_half_the_level() -> None:
    """For two streams and three classes, the bound is recomputed from the scores of each stream."""
    random = np.random.default_rng(3)
    score = random.dirichlet([8, 1, 1], (2, 400))
    units = np.floor(score * SCORE_UNITS).astype(np.int64)

    def sums(request: Draws) -> list:
        part = units[:, request.start : request.stop]
        return [*part.sum(1), *(part**2).sum(1)]

    claim, requests = drive(MeanProbability(n0=20, n=400, alpha=0.02), sums, of=lambda p: p[0] + 10 * p[1])
    assert requests == [Draws(0, 0, 20), Draws(1, 0, 400)]
    assert (claim.prediction, claim.selected, claim.draws) == (0, 0, 420)
    first = units[:, :, 0] / SCORE_UNITS
    np.testing.assert_allclose(claim.hits, first.sum(1), rtol=1e-12)
    wanted = first.mean(1) - np.sqrt(2 * first.var(1, ddof=1) * math.log(2 / 0.01) / 400) - 7 * math.log(200) / 1197
    np.testing.assert_allclose(claim.p_lower, wanted, rtol=1e-9)
    assert claim.radius == pytest.approx(wanted[0] + 10 * wanted[1])
