import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from lightning_modules.interfaces import SmoothedClassifier
from lightning_modules.robustness.certificates import fewer_draws
from lightning_modules.robustness.certificates.fewer_draws import Anytime, Curve, InputSpecific, Stages, next_look
from lightning_modules.robustness.certificates.modes import BLOCK, Certificate, Draws, Fixed, Mode, Predict
from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    accuracy_with_high_probability,
    anytime_lower,
    anytime_upper,
    average_certified_radius,
    certified_accuracy,
    clopper_pearson_lower,
    clopper_pearson_upper,
    gaussian_radius,
    input_specific_draws,
    log_wealth,
    log_wealth_above,
    one_sided_anytime_lower,
    one_sided_anytime_upper,
    predict,
)
from lightning_modules.robustness.certificates.votes import BlockNoise, GaussianSmoothing, LabelledImage, VoteCounter

SIGMA = 0.25


def radius(p_lower) -> float:
    return gaussian_radius(p_lower[0], SIGMA)


# bounds at a fixed number of draws


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [1, 10, 1000, 100_000])
def test_clopper_pearson_is_the_beta_quantile(n: int, alpha: float) -> None:
    hits = np.unique(np.linspace(0, n, 12).astype(int))
    expected = [0.0 if k == 0 else stats.beta.ppf(alpha, k, n - k + 1) for k in hits]
    np.testing.assert_allclose(clopper_pearson_lower(hits, n, alpha), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(clopper_pearson_lower(n, n, alpha), alpha ** (1 / n), rtol=0, atol=1e-12)
    upper = [1.0 if k == n else stats.beta.ppf(1 - alpha, k + 1, n - k) for k in hits]
    np.testing.assert_allclose(clopper_pearson_upper(hits, n, alpha), upper, rtol=0, atol=1e-12)


def test_clopper_pearson_inverts_the_binomial_tail() -> None:
    """At the bound, so many hits or more have probability alpha: the definition, without the beta distribution."""
    for k, n in [(1, 10), (60, 100), (995, 1000)]:
        assert stats.binom.sf(k - 1, n, float(clopper_pearson_lower(k, n, 0.001))) == pytest.approx(0.001, rel=1e-9)


@given(st.integers(1, 400), st.integers(0, 399), st.floats(1e-6, 0.4))
@settings(deadline=None, max_examples=60)
def test_clopper_pearson_is_monotone(n: int, k: int, alpha: float) -> None:
    k = min(k, n - 1)
    bound = clopper_pearson_lower(k, n, alpha)
    assert 0 <= bound <= k / n
    assert clopper_pearson_lower(k + 1, n, alpha) > bound  # in hits
    assert clopper_pearson_lower(k, n, alpha * 1.5) >= bound  # in alpha
    assert clopper_pearson_lower(2 * k, 2 * n, alpha) >= bound - 1e-15  # in n at the same share


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_clopper_pearson_covers(p: float) -> None:
    alpha, n, repeats = 0.01, 500, 20_000
    hits = np.random.default_rng(0).binomial(n, p, repeats)
    wrong = (clopper_pearson_lower(hits, n, alpha) > p).mean()
    assert wrong <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    twice = (clopper_pearson_lower(hits, n, 4 * alpha) > p).mean()
    assert twice > alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)  # the simulation would notice a wrong level


# bounds at any number of draws


def test_wealth_is_the_mixture_of_likelihood_ratios() -> None:
    """The closed forms against the integral over q of the likelihood ratio of q and p under the arcsine law."""
    for (k, n), p in itertools.product([(0, 3), (7, 9), (30, 40)], [0.2, 0.6, 0.9]):

        def ratio(q: float, k: int = k, n: int = n, p: float = p) -> float:
            return (q / p) ** k * ((1 - q) / (1 - p)) ** (n - k)

        def arcsine_mean(lowest: float, ratio: Callable[[float], float] = ratio) -> float:
            # q = sin(u)^2 is uniform in u
            begin = math.asin(math.sqrt(lowest))
            return integrate.quad(lambda u: ratio(math.sin(u) ** 2), begin, math.pi / 2)[0] / (math.pi / 2 - begin)

        assert math.exp(log_wealth(k, n, p)) == pytest.approx(arcsine_mean(0.0), rel=1e-8)
        assert math.exp(log_wealth_above(k, n, p)) == pytest.approx(arcsine_mean(p), rel=1e-8)


def test_wealth_is_a_fair_game() -> None:
    """Expected wealth after one more draw is the wealth now, if p is true; less is true: the one-sided wealth falls."""
    for k, n, p in [(0, 0, 0.3), (3, 7, 0.5), (90, 100, 0.95)]:
        for wealth in (log_wealth, log_wealth_above):
            now = math.exp(wealth(k, n, p))
            hit, miss = math.exp(wealth(k + 1, n + 1, p)), math.exp(wealth(k, n + 1, p))
            assert p * hit + (1 - p) * miss == pytest.approx(now, rel=1e-9)
        assert 0.8 * p * hit + (1 - 0.8 * p) * miss < now


@pytest.mark.parametrize(("k", "n", "lower"), [(1000, 1000, 0.98913), (100_000, 100_000, 0.999868)])
def test_anytime_bound_of_unanimous_votes(k: int, n: int, lower: float) -> None:
    assert anytime_lower(k, n, 0.001) == pytest.approx(lower, abs=6e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_anytime_bounds_are_ordered(alpha: float) -> None:
    for n in (1, 7, 100, 5000, 100_000):
        for k in {0, 1, n // 2, round(0.9 * n), n - 1, n} & set(range(n + 1)):
            lower, tighter = anytime_lower(k, n, alpha), one_sided_anytime_lower(k, n, alpha)
            assert 0 <= lower <= tighter <= float(clopper_pearson_lower(k, n, alpha)) + 1e-12
            assert tighter <= k / n <= one_sided_anytime_upper(k, n, alpha) <= anytime_upper(k, n, alpha) <= 1
            if k:  # the bound is where the wealth is the threshold
                assert float(log_wealth(k, n, lower)) == pytest.approx(math.log(1 / alpha), abs=1e-4)
                assert float(log_wealth_above(k, n, tighter)) == pytest.approx(math.log(1 / alpha), abs=1e-4)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("wealth", [log_wealth, log_wealth_above])
def test_anytime_bound_is_never_wrong_too_often(wealth: Callable, p: float) -> None:
    """L_n > p at some n <= 2000 says that the wealth against p has reached 1/alpha above p."""
    alpha, n, repeats = 0.05, 2000, 4000
    hits = (np.random.default_rng(1).random((repeats, n)) < p).cumsum(axis=1)
    draws = np.broadcast_to(np.arange(1, n + 1), hits.shape)
    threshold = math.log(1 / alpha)
    # The one-sided wealth exceeds the other by at most -log P(b > p).
    rich = (hits > p * draws) & (log_wealth(hits, draws, p) >= threshold + math.log(stats.arcsine.sf(p)))
    path, _ = np.nonzero(rich)
    wrong = len(np.unique(path[wealth(hits[rich], draws[rich], p) >= threshold])) / repeats
    margin = 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert wrong <= alpha + margin
    fixed = stats.binom.sf(hits[:, 99::100] - 1, draws[:, 99::100], p) < alpha  # the fixed-n bound, looked at 20 times
    assert fixed.any(axis=1).mean() > alpha + margin  # the simulation would notice


# PREDICT


@pytest.mark.parametrize("votes", [(60, 40), (70, 30, 0), (0, 55, 45), (500, 400, 100), (30, 30)])
def test_predict_is_the_two_sided_binomial_test_of_the_top_two(votes: tuple[int, ...]) -> None:
    first, second = sorted(votes)[::-1][:2]
    certain = stats.binomtest(first, first + second, 0.5).pvalue <= 0.01
    assert predict(votes, 0.01) == (votes.index(first) if certain else ABSTAIN)


def test_predict_abstains_from_a_tie_and_from_no_votes() -> None:
    assert predict([10_000, 10_000, 0], 0.999) == ABSTAIN
    assert predict([0, 0], 0.5) == ABSTAIN


# what a set of certificates is worth


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_average_certified_radius_is_the_area_under_the_curve(rows: list[tuple[bool, float]]) -> None:
    correct, r = zip(*rows, strict=True)
    grid = np.linspace(0, 3.001, 20_001)
    area = np.trapezoid(certified_accuracy(correct, r, grid), grid)
    assert average_certified_radius(correct, r) == pytest.approx(area, abs=2 * 3.001 / 20_000)


def test_certified_accuracy_counts_the_radius_itself_and_no_wrong_image() -> None:
    correct, r = [True, True, True, False], [0.0, 0.25, 0.5, 9.0]
    np.testing.assert_array_equal(
        certified_accuracy(correct, r, [0, 0.25, 0.2500001, 0.5, 1]), [0.75, 0.5, 0.25, 0.25, 0]
    )


@pytest.mark.parametrize("m", [1, 100, 500, 2000, 10_000, 50_000])
@pytest.mark.parametrize("alpha", [1e-4, 0.001, 0.01])
def test_high_probability_accuracy_is_the_largest_bound_on_wrong_certificates(alpha: float, m: int) -> None:
    """More wrong certificates than it allows for have probability at most rho, and one fewer is too few."""
    rho = 1e-3
    share = 1.0 - float(accuracy_with_high_probability(1.0, alpha, m, rho))
    allowed = round(share * m)
    assert share == pytest.approx(allowed / m, abs=1e-12)
    assert stats.binom.sf(allowed, m, alpha) <= rho < stats.binom.sf(allowed - 1, m, alpha)
    assert float(accuracy_with_high_probability(0.5 * share, alpha, m, rho)) == 0


# modes, driven by simulated votes


def drive(mode: Mode, votes: Callable[[Draws], list], of=radius, label: int = 0) -> tuple[Certificate, list[Draws]]:
    """Certifies with votes from a function of the request."""
    certifying, requests = mode.certify(of, label), []
    request = next(certifying)
    try:
        while True:
            requests.append(request)
            request = certifying.send(np.array(votes(request), dtype=np.int64))
    except StopIteration as end:
        return end.value, requests


def voter(p: float, random: np.random.Generator) -> Callable[[Draws], list]:
    """Two classes, of which the first has probability p."""

    def votes(request: Draws) -> list:
        hits = random.binomial(request.stop - request.start, p)
        return [[hits, request.stop - request.start - hits]]

    return votes


def unanimous(request: Draws) -> list:
    return [[request.stop - request.start, 0]]


MODES: list[Mode] = [
    Fixed(n0=20, n=500, alpha=0.05),
    Stages(radius=0.3, n0=20, n=(100, 400), alpha=0.05, beta=0.01),
    InputSpecific(n0=50, n_max=800, alpha=0.05),
    Anytime(n0=20, n_max=1000, alpha=0.05),
    Anytime(radius=0.3, n0=20, n_max=1000, alpha=0.05),
    Curve(grid=0.05, n0=20, n_max=1000, alpha=0.05),
]


def wrong_claims(mode: Mode, p: float, repeats: int) -> float:
    """Share of certificates that give the rare class, or a radius beyond sigma Phi^-1(p)."""
    random = np.random.default_rng(7)
    claims = [drive(mode, voter(p, random))[0] for _ in range(repeats)]
    truth = {0: gaussian_radius(p, SIGMA), 1: gaussian_radius(1 - p, SIGMA)}
    return float(np.mean([c.prediction != ABSTAIN and c.radius > truth[c.prediction] for c in claims]))


@pytest.fixture
def bounds_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same few counts come again and again, so the bounds of each are computed once."""
    names = ("anytime_lower", "anytime_upper", "one_sided_anytime_lower", "one_sided_anytime_upper", "_clopper_pearson")
    for name in names:
        monkeypatch.setattr(fewer_draws, name, cache(getattr(fewer_draws, name)))


@pytest.mark.usefixtures("bounds_kept")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.name}")
def test_every_mode_keeps_its_level(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a probability that falls just short of a radius of the grid, and of the target, any overstatement shows.

    Confidence sequences are far from their level after few looks, so the controls raise that of `Curve` by more, and
    let `Anytime` look at a bound that holds once.
    """
    p, repeats = float(stats.norm.cdf(0.3 / SIGMA)) - 1e-9, 4000
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert wrong_claims(mode, p, repeats) <= limit
    if isinstance(mode, Anytime):
        monkeypatch.setattr(fewer_draws, "anytime_lower", cache(fewer_draws._clopper_pearson))
    raised = replace(mode, alpha=(8 if isinstance(mode, Curve) else 2) * 0.05)  # type: ignore[type-var]
    assert wrong_claims(raised, p, repeats) > limit


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.name}")
@pytest.mark.parametrize("p", [0.4, 0.9, 0.993])
def test_claims_are_right_and_worth_something(mode: Mode, p: float) -> None:
    assert wrong_claims(mode, p, repeats=200) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    random = np.random.default_rng(8)
    if p > 0.8:
        claims = [drive(mode, voter(p, random))[0] for _ in range(50)]
        assert np.median([c.radius for c in claims]) > 0.5 * gaussian_radius(p, SIGMA)


@pytest.mark.parametrize("mode", MODES[3:], ids=lambda mode: f"{mode.name}")
@pytest.mark.parametrize("p", [0.87, 0.885, 0.999])
def test_bounds_at_any_time_are_at_the_stated_level(mode: Mode, p: float) -> None:
    counts: list[tuple[int, int]] = [(0, 0)]
    votes = voter(p, np.random.default_rng(2))

    def recorded(request: Draws) -> list:
        counted = votes(request)
        if request.stage == 1:
            counts.append((counts[-1][0] + counted[0][0], request.stop))
        return counted

    claim, _ = drive(mode, recorded)
    if isinstance(mode, Curve):
        bounds = [one_sided_anytime_lower(k, n, 0.8 * 0.05) for k, n in counts[1:]]
        bounds += [float(clopper_pearson_lower(k, n, 0.2 * 0.05)) for k, n in counts if n == 1000]
        assert claim.p_lower == (pytest.approx(max(bounds), rel=1e-12),)
    else:
        assert claim.p_lower == (pytest.approx(anytime_lower(*counts[-1], 0.05), rel=1e-12),)


def test_stages_share_the_level_of_giving_up() -> None:
    """Of two stages that may give up, each does so at half of beta."""
    mode = Stages(radius=0.25, n=(100, 100, 1000), beta=0.05)
    needed = stats.norm.cdf(1.0)
    hits = np.arange(101)
    at_half, at_all = (clopper_pearson_upper(hits, 100, level) >= needed for level in (0.025, 0.05))
    between = int(hits[at_half & ~at_all][0])

    def votes(count: int, request: Draws) -> list:
        if request.stage % 2 == 0:
            return unanimous(request)
        return [[count, 100 - count]] if request.stage == 1 else [[0, request.stop - request.start]]

    for count, stage in ((between - 1, 1), (between, 2)):  # the second stage refutes whatever the first left
        claim, _ = drive(mode, partial(votes, count))
        assert (claim.outcome, claim.stage) == ("refuted", stage)


def test_stages_give_up_a_class_that_a_later_stage_might_not_have_selected() -> None:
    claim, _ = drive(Stages(radius=0.0), lambda r: [[0, r.stop]] if r.stage == 0 else unanimous(r))
    assert (claim.selected, claim.outcome, claim.stage) == (1, "refuted", 1)
    assert (claim.prediction, claim.radius) == (ABSTAIN, 0.0)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.name}")
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


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.name}")
def test_selection_votes_never_bound_the_probability(mode: Mode) -> None:
    """All selection draws vote for class 1, all estimation draws for class 0: class 1 cannot be certified."""
    claim, _ = drive(mode, lambda r: [[0, r.stop - r.start]] if r.stage % 2 == 0 else unanimous(r), label=1)
    assert claim.selected == 1
    assert claim.hits == (0,)
    assert (claim.prediction, claim.radius) == (ABSTAIN, 0.0)


def test_fixed_is_certify() -> None:
    for hits in (499, 504, 600, 1000):
        claim, requests = drive(
            Fixed(n0=10, n=1000, alpha=0.01),
            partial(lambda hits, r: [[hits, 1000 - hits]] if r.stage == 1 else [[5, 5]], hits),
        )
        assert requests == [Draws(0, 0, 10), Draws(1, 0, 1000)]
        assert claim.selected == 0  # the lowest of a tie
        p = stats.beta.ppf(0.01, hits, 1000 - hits + 1)
        if p < 0.5:
            assert (claim.prediction, claim.radius) == (ABSTAIN, 0.0)
        else:
            assert claim.prediction == 0
            assert claim.radius == pytest.approx(SIGMA * stats.norm.ppf(p), rel=1e-10)


@pytest.mark.parametrize(("n", "cap"), [(1000, 2.463), (10_000, 3.199), (100_000, 3.811)])
def test_fixed_certifies_a_constant_classifier_to_the_largest_radius(n: int, cap: float) -> None:
    claim, _ = drive(Fixed(n=n), unanimous)
    assert claim.radius == pytest.approx(cap * SIGMA, abs=5e-4 * SIGMA)


def test_a_bound_of_exactly_one_half_is_no_abstention() -> None:
    claim, _ = drive(Fixed(n=1, n0=1, alpha=0.5), unanimous)
    assert (claim.prediction, claim.radius) == (0, 0.0)


def test_stages_give_up_and_certify_early() -> None:
    mode = Stages(radius=0.25, n=(100, 1000, 10_000))
    certified, requests = drive(mode, voter(0.99, np.random.default_rng(0)))
    assert certified.outcome == "certified"
    assert certified.radius >= 0.25
    assert len(requests) == 2 * certified.stage
    assert certified.p_lower[0] == clopper_pearson_lower(certified.hits[0], certified.n, 0.001 / 3)
    refuted, _ = drive(mode, voter(0.6, np.random.default_rng(0)))
    assert refuted.outcome == "refuted"
    assert refuted.draws < 2000
    undecided, _ = drive(mode, voter(stats.norm.cdf(1.0), np.random.default_rng(0)))
    assert undecided.outcome == "out of draws"
    assert undecided.draws == 3 * 100 + 11_100


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("pilot", [100, 97, 70, 40])
def test_input_specific_number_is_the_smallest_that_keeps_the_loss(pilot: int, relative: bool) -> None:
    n_max, alpha, loss = 20_000, 0.001, 0.1
    n = input_specific_draws([pilot], 100, n_max, BLOCK, alpha, 0.05, loss, relative, radius)

    def largest_loss(n: int) -> float:
        low, high = stats.binomtest(pilot, 100).proportion_ci(0.95, method="exact")
        p = np.linspace(low, high, 500)
        short, long = (
            SIGMA * stats.norm.ppf(np.maximum(clopper_pearson_lower(p * m, m, alpha), 0.5)) for m in (n, n_max)
        )
        return float(np.max((long - short) / np.maximum(long, 1e-300) if relative else long - short))

    assert largest_loss(n) <= loss + 2e-3
    assert n % BLOCK == 0 or n == n_max
    if n > BLOCK:
        assert largest_loss(n - BLOCK) > loss - 2e-3


def test_input_specific_saves_most_where_the_class_is_unlikely_to_have_a_large_radius() -> None:
    mode = InputSpecific(max_loss=0.05)
    needed = [drive(mode, partial(lambda p, r: [[round(p * (r.stop - r.start)), 0]], p))[0].n for p in (0.6, 0.9, 1.0)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1] < 100_000


def test_a_mode_plans_for_each_sigma_that_it_is_used_with() -> None:
    def planned(mode: InputSpecific, sigma: float) -> int:
        certifying = mode.certify(lambda p: gaussian_radius(p[0], sigma), 0)
        next(certifying)
        return certifying.send(np.array([[90, 10]])).stop

    shared = InputSpecific(max_loss=0.05)
    numbers = [planned(shared, sigma) for sigma in (0.25, 1.0)]
    assert numbers == [planned(InputSpecific(max_loss=0.05), sigma) for sigma in (0.25, 1.0)]
    assert numbers[0] < numbers[1]


def test_a_plan_is_made_once_for_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def draws(pilot_hits: tuple[int, ...], *_: Any) -> int:
        made.append(pilot_hits)
        return 100

    monkeypatch.setattr("lightning_modules.robustness.certificates.fewer_draws.input_specific_draws", draws)
    certify(InputSpecific(n0=10), 100, images(30))
    assert len(set(made)) == len(made) < 12


def test_anytime_decides_a_radius_as_fixed_does_with_fewer_draws() -> None:
    random, target, n = np.random.default_rng(5), 0.25, 10_000
    probabilities = stats.norm.cdf(random.uniform(0, 2.5, 300))
    agree, draws = 0, []
    for p in probabilities:
        fixed, _ = drive(Fixed(n=n), voter(p, random))
        early, _ = drive(Anytime(radius=target, n_max=n), voter(p, random))
        agree += (fixed.radius >= target) == (early.radius >= target)
        draws.append(early.draws)
        assert (early.outcome == "certified") == (early.radius >= target)
    assert agree / 300 >= 0.96
    assert np.mean(draws) < n / 4


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 1.0])
def test_anytime_stops_where_more_draws_are_worth_little(p: float) -> None:
    """Of 100 more draws, the share that has hit so far is expected to hit."""

    def expected(request: Draws) -> list:
        hits, draws = round(p * request.stop) - round(p * request.start), request.stop - request.start
        return [[hits, draws - hits]]

    claim, _ = drive(Anytime(), expected)
    assert claim.outcome == "little gain"
    hits, n = claim.hits[0] * (1 + 100 / claim.n), claim.n + 100
    gain = SIGMA * stats.norm.ppf(anytime_lower(hits, n, 0.001)) - claim.radius
    assert 0.85e-4 < gain < 1e-4


def test_anytime_stops_at_a_radius_that_is_large_enough() -> None:
    large, _ = drive(Anytime(largest_radius=0.5), unanimous)
    assert large.outcome == "certified"
    assert 0.5 <= large.radius < 0.55


def test_curve_is_a_lower_bound_close_to_that_of_a_hundred_thousand_draws() -> None:
    """On 400 classifiers of known probabilities: below the true curve, near that of `Fixed`, with far fewer draws."""
    random = np.random.default_rng(11)
    truth = random.uniform(-0.1, 1.1, 400)
    curve, fixed = [], []
    for p in stats.norm.cdf(truth / SIGMA):
        curve.append(drive(Curve(), voter(p, random))[0])
        fixed.append(drive(Fixed(), voter(p, random))[0])
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    exact = certified_accuracy(truth >= 0, truth, grid)
    accuracies = [
        certified_accuracy([c.prediction == 0 for c in c_], [c.radius for c in c_], grid) for c_ in (curve, fixed)
    ]
    assert (accuracies[0] <= exact + 0.005).all()
    assert (abs(accuracies[0] - accuracies[1]) <= 0.0101).all()
    assert {c.radius for c in curve} == {0.0, 0.25, 0.5, 0.75}
    right = [c.draws for c in curve if c.selected == 0]
    assert np.mean(right) < 100_100 / 5


def test_curve_spends_nothing_on_a_wrong_class_and_stops_at_the_last_radius_within_reach() -> None:
    claim, requests = drive(Curve(n0=100), unanimous, label=1)
    assert (claim.prediction, claim.outcome, claim.draws) == (ABSTAIN, "wrong class", 100)
    assert requests == [Draws(0, 0, 100)]
    best, _ = drive(Curve(), unanimous)
    assert best.radius == 0.75  # 1.0 is four sigma, beyond any hundred thousand draws
    assert one_sided_anytime_lower(best.n, best.n, 0.001) >= stats.norm.cdf(3)
    assert best.n < 7000


def test_early_stopping_of_two_votes_shares_the_level() -> None:
    def votes(request: Draws) -> list:
        size = request.stop - request.start
        return [[size, 0], [size - 1, 1]]

    def both(p_lower) -> float:
        return SIGMA * float(np.mean(stats.norm.ppf(p_lower)))

    early, _ = drive(Anytime(radius=0.3, alpha=0.01), votes, both)
    assert early.outcome == "certified"
    assert early.p_lower == tuple(anytime_lower(k, early.n, 0.005) for k in early.hits)
    placed, _ = drive(Curve(grid=0.3, alpha=0.01), votes, both)
    assert placed.radius == 0.6
    assert placed.p_lower == tuple(one_sided_anytime_lower(k, placed.n, 0.004) for k in placed.hits)
    last, _ = drive(Curve(grid=0.01, n_max=2000, alpha=0.01), votes, both)
    assert last.n == 2000
    for k, p in zip(last.hits, last.p_lower, strict=True):
        assert p == max(one_sided_anytime_lower(k, 2000, 0.004), float(clopper_pearson_lower(k, 2000, 0.001)))


def test_looks_grow_by_a_twentieth_in_whole_blocks() -> None:
    assert [next_look(n) for n in (0, 100, 1900, 2000, 4000, 10_000)] == [100, 200, 2000, 2100, 4200, 10_500]


@pytest.mark.parametrize(
    ("mode", "key", "arguments"),
    [
        (Fixed, "n", {"n": 0}),
        (Fixed, "alpha", {"alpha": 1.0}),
        (Predict, "alpha", {"alpha": 0.0}),
        (Stages, "the length of n", {"radius": 0.5, "n": ()}),
        (Stages, "radius", {"radius": -1.0}),
        (Stages, r"n\[1\]", {"radius": 0.5, "n": (10, 0)}),
        (InputSpecific, "max_loss", {"max_loss": 0.0}),
        (Anytime, "least_gain", {"least_gain": -1.0}),
        (Curve, "grid", {"grid": 0.0}),
    ],
)
def test_bad_arguments_are_named(mode: type[Mode], key: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=key):
        mode(**arguments)


# votes on noisy images

SHAPE = (2, 3, 3)
NORMAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OFFSET = float(0.5 * NORMAL.sum())


def half_space(noisy: Tensor) -> Tensor:
    """Class 0 on one side of a plane, in float64 so that no batch changes a vote."""
    height = (noisy.double() * NORMAL).flatten(1).sum(1) - OFFSET
    return torch.stack([height, torch.zeros_like(height), torch.full_like(height, -9.0)], dim=1)


def images(count: int) -> list[LabelledImage]:
    random = torch.Generator().manual_seed(2)
    found = []
    for index in range(count):
        image = torch.rand(SHAPE, generator=random)
        found.append(LabelledImage(index, image, int(half_space(image[None]).argmax())))
    return found


def exact_radius(image: Tensor) -> float:
    return abs(float((image.double() * NORMAL).sum() - OFFSET)) / float(NORMAL.norm())


def certify(
    mode: Mode,
    batch_size: int,
    pictures: list[LabelledImage],
    smoothed: SmoothedClassifier | None = None,
    seed: int = 0,
) -> dict[int, Certificate]:
    counter = VoteCounter(smoothed or GaussianSmoothing(half_space), mode, SIGMA, batch_size, seed, torch.device("cpu"))
    found = {done.index: done.certificate for done in counter.certify(iter(pictures))}
    assert counter.num_draws == sum(certificate.draws for certificate in found.values())
    return found


def certify_together(mode: Mode, batch_size: int, pictures: list[LabelledImage], world_size: int) -> list[dict]:
    """As many processes as threads, which share the draws of every image."""
    barrier, sent = threading.Barrier(world_size, timeout=60), [torch.empty(0)] * world_size
    results: list[dict] = [{}] * world_size

    def run(rank: int) -> None:
        def add(counts: Tensor) -> None:
            sent[rank] = counts.clone()
            barrier.wait()
            counts.copy_(torch.stack(sent).sum(0))
            barrier.wait()

        counter = VoteCounter(
            GaussianSmoothing(half_space), mode, SIGMA, batch_size, 0, torch.device("cpu"), rank, world_size, add
        )
        results[rank] = {done.index: done.certificate for done in counter.certify(iter(pictures))}

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


VOTING: list[Mode] = [
    Fixed(n0=100, n=1234, alpha=0.01),
    Stages(radius=0.2, n0=50, n=(100, 500), alpha=0.01),
    InputSpecific(n0=100, n_max=1500),
    Anytime(radius=0.2, n_max=1500),
    Curve(grid=0.1, n_max=1500),
    Predict(n=150),
]


@pytest.mark.parametrize("mode", VOTING, ids=lambda mode: mode.name)
def test_counts_do_not_depend_on_batches_or_processes(mode: Mode) -> None:
    pictures = images(9)
    expected = certify(mode, 1000, pictures)
    assert len(expected) == 9
    assert certify(mode, 7, pictures) == expected
    assert certify(mode, 100, pictures[::-1]) == expected
    for world_size in (2, 3):
        parts = [certify(mode, 250, pictures[rank::world_size]) for rank in range(world_size)]
        assert {key: value for part in parts for key, value in part.items()} == expected
        assert certify_together(mode, 130, pictures, world_size) == [expected] * world_size
    assert certify(mode, 1, pictures[:2]) == {index: expected[index] for index in (0, 1)}
    other_noise = certify(mode, 1000, pictures, seed=1)
    assert [c.hits for c in other_noise.values()] != [c.hits for c in expected.values()]


def test_half_space_is_certified_up_to_its_exact_radius() -> None:
    """Never beyond it, and with 100,000 draws within 2 % of it on average."""
    pictures = [p for p in images(90) if 1.2 < exact_radius(p.image) / SIGMA < 2.4][:5]
    assert len(pictures) == 5
    shares = []
    for index, claim in certify(Fixed(n=100_000), 5000, pictures).items():
        picture = next(p for p in pictures if p.index == index)
        assert claim.prediction == picture.label
        shares.append(claim.radius / exact_radius(picture.image))
    assert max(shares) <= 1
    assert min(shares) >= 0.97
    assert np.mean(shares) >= 0.98
    expected = stats.norm.cdf(exact_radius(pictures[0].image) / SIGMA)
    hits = certify(Fixed(n=100_000), 5000, pictures[:1])[pictures[0].index].hits[0]
    assert abs(hits / 100_000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 100_000)


def test_a_classifier_that_guesses_is_not_certified() -> None:
    def guess(noisy: Tensor) -> Tensor:
        return torch.nn.functional.one_hot((noisy[:, 0, 0, 0].double() * 1e6).floor().long() % 10, 10).double()

    claims = certify(Fixed(n=1000), 500, images(4), GaussianSmoothing(guess))
    assert {claim.prediction for claim in claims.values()} == {ABSTAIN}


def test_ties_go_to_the_lowest_class() -> None:
    def equal(noisy: Tensor) -> Tensor:
        return torch.zeros(len(noisy), 4)

    claims = certify(Fixed(n=200), 64, images(1), GaussianSmoothing(equal))
    assert (claims[0].prediction, claims[0].hits) == (0, (200,))


def test_noise_is_standard_normal_and_its_blocks_are_independent() -> None:
    noise = BlockNoise(3, torch.device("cpu"))
    shape = torch.Size((1, 8, 8))
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 2)]
    blocks = torch.stack([noise.block(*key, shape).flatten() for key in keys]).double()
    assert blocks.dtype == torch.float64
    size = blocks.shape[1]
    correlation = torch.corrcoef(blocks) - torch.eye(len(keys))
    assert correlation.abs().max() < 4.5 / math.sqrt(size)
    assert stats.kstest(blocks.flatten().numpy(), "norm").pvalue > 1e-3
    torch.testing.assert_close(BlockNoise(3, torch.device("cpu")).block(0, 1, 0, shape).flatten().double(), blocks[2])
    assert not torch.equal(BlockNoise(4, torch.device("cpu")).block(0, 0, 0, shape).flatten().double(), blocks[0])


def test_seeds_of_an_images_blocks_differ_where_a_generator_keeps_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, seeds = BlockNoise(0, torch.device("cpu")), []

    class Recorder:
        device = torch.device("cpu")

        def manual_seed(self, seed: int) -> None:
            seeds.append(seed)

    monkeypatch.setattr(noise, "generator", Recorder())
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device, dtype: torch.empty(0))
    for stage, block in itertools.product((0, 1, 2, 7), (0, 1, 999, 2**20 - 1)):
        noise.block(5, stage, block, torch.Size((1, 1, 1)))
    assert len({seed % 2**32 for seed in seeds}) == len(seeds) == 16


def test_pieces_of_a_stream_are_the_stream() -> None:
    noise, shape = BlockNoise(0, torch.device("cpu")), torch.Size((1, 2, 2))
    whole = torch.cat(noise.draws(4, 1, 0, 350, shape))
    assert whole.shape == (350, 1, 2, 2)
    pieces = [noise.draws(4, 1, start, stop, shape) for start, stop in [(0, 30), (30, 130), (130, 131), (131, 350)]]
    torch.testing.assert_close(torch.cat([part for piece in pieces for part in piece]), whole, rtol=0, atol=0)


def test_noise_is_added_in_float32_under_mixed_precision() -> None:
    seen = []

    def network(noisy: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.zeros(len(noisy), 2)

    image, noise = torch.rand(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        GaussianSmoothing(network).smoothed_logits(image, noise, 0.25)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], image + 0.25 * noise)


class TwoHalves:
    """Dual smoothing of two half-spaces, each of which sees one channel of the noisy image."""

    certificate = "two half-spaces"

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        noisy = (image + sigma * noise).double()
        height = [(noisy[:, c] * NORMAL[c]).flatten(1).sum(1) - 0.5 * NORMAL[c].sum() for c in (0, 1)]
        return torch.stack([torch.stack([h, -h], dim=1) for h in height])

    def certified_radius(self, probability, sigma: float) -> float:
        return sigma / math.sqrt(2) * float(sum(stats.norm.ppf(p) for p in probability))


def test_two_votes_share_the_level_and_the_radius_is_the_modules_own() -> None:
    smoothed = TwoHalves()
    assert isinstance(smoothed, SmoothedClassifier)
    pictures = images(6)
    claims = certify(Fixed(n=4000, alpha=0.01), 900, pictures, smoothed)
    for picture in pictures:
        height = [
            float(((picture.image[c].double() - 0.5) * NORMAL[c]).sum() / NORMAL[c].norm() / SIGMA) for c in (0, 1)
        ]
        claim = claims[picture.index]
        assert len(claim.hits) == 2
        expected = 0 if sum(stats.norm.cdf(height)) > 1 else 1
        assert claim.selected == expected
        bounds = [stats.beta.ppf(0.005, k, 4000 - k + 1) for k in claim.hits]
        assert claim.p_lower == pytest.approx(bounds, rel=1e-10)
        truth = SIGMA / math.sqrt(2) * abs(sum(height))
        assert claim.radius <= truth
        if truth > 0.05:
            assert claim.radius > 0.8 * truth - 0.02
    for mode in (
        Anytime(n_max=3000),
        Curve(grid=0.05, n_max=3000),
        InputSpecific(n_max=3000),
        Stages(0.1, n=(100, 900)),
    ):
        adaptive = certify(
            mode, 700, [LabelledImage(p.index, p.image, claims[p.index].selected) for p in pictures], smoothed
        )
        for index, claim in adaptive.items():
            assert claim.radius <= 1.05 * claims[index].radius + 0.02
        assert max(claim.radius for claim in adaptive.values()) > 0.1
    with pytest.raises(ValueError, match="adds 2"):
        certify(Predict(n=100), 100, pictures, smoothed)


def test_logits_that_are_no_numbers_stop_the_certification() -> None:
    def broken(noisy: Tensor) -> Tensor:
        return torch.where(noisy[:, :1, 0, 0] > 1.2, torch.nan, 1.0).expand(-1, 3)

    with pytest.raises(ValueError, match="NaN for"):
        certify(Fixed(n=1000), 100, images(2), GaussianSmoothing(broken))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[S, 1, K\]"):
        certify(Fixed(n=1000), 100, images(1), GaussianSmoothing(lambda noisy: noisy))


def test_batches_are_full_until_the_last_images() -> None:
    sizes: list[int] = []

    def network(noisy: Tensor) -> Tensor:
        sizes.append(len(noisy))
        return half_space(noisy)

    taken = 0

    def source() -> Iterator[LabelledImage]:
        nonlocal taken
        for picture in images(40):
            taken += 1
            yield picture

    counter = VoteCounter(GaussianSmoothing(network), Fixed(n=1000), SIGMA, 500, 0, torch.device("cpu"))
    for done, _ in enumerate(counter.certify(source()), start=1):
        assert taken <= done + 10  # few are under way, so that an interruption costs little
    assert sizes[0] == 1  # the shape of the logits
    assert all(size == 500 for size in sizes[1:-2])
