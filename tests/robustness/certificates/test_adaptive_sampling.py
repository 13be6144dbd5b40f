from functools import partial

import numpy as np
import pytest
from scipy import stats

from lightning_modules.robustness.certificates import adaptive_sampling
from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages, next_look
from lightning_modules.robustness.certificates.modes import BLOCK, Draws, FixedSampling, Mode
from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    anytime_lower,
    certified_accuracy,
    clopper_pearson_lower,
    clopper_pearson_upper,
    gaussian_radius,
    input_specific_draws,
    one_sided_anytime_lower,
)
from tests.robustness.certificates.simulated_votes import MODES, SIGMA, drive, radius, unanimous, voter


def nearly_unanimous(request: Draws) -> list:
    """Return two streams of votes; in the second, one vote per request is for another class."""
    size = request.stop - request.start
    return [[size, 0], [size - 1, 1]]


def both(p_lower) -> float:
    """Return the joint radius of two votes, each with half of the noise."""
    return SIGMA * float(np.mean(stats.norm.ppf(p_lower)))


@pytest.mark.parametrize("mode", MODES[3:], ids=lambda mode: mode.name)
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


def test_looks_grow_by_a_twentieth_in_whole_blocks() -> None:
    assert [next_look(n) for n in (0, 100, 1900, 2000, 4000, 10_000)] == [100, 200, 2000, 2100, 4200, 10_500]


# Stages


def test_stages_share_the_level_of_giving_up() -> None:
    """If two of the stages may give up, each of the two tests at level beta / 2."""
    mode = Stages(radius=0.25, n=(100, 100, 1000), beta=0.05)
    needed = stats.norm.cdf(1.0)
    hits = np.arange(101)
    at_half, at_all = (clopper_pearson_upper(hits, 100, level) >= needed for level in (0.025, 0.05))
    between = int(hits[at_half & ~at_all][0])

    def votes(count: int, request: Draws) -> list:
        if request.stage % 2 == 0:
            return unanimous(request)
        return [[count, 100 - count]] if request.stage == 1 else [[0, request.stop - request.start]]

    for count, stage in ((between - 1, 1), (between, 2)):  # the second stage refutes what the first kept
        claim, _ = drive(mode, partial(votes, count))
        assert (claim.outcome, claim.stage) == ("refuted", stage)


def test_stages_give_up_a_class_that_a_later_stage_might_not_have_selected() -> None:
    claim, _ = drive(Stages(radius=0.0), lambda r: [[0, r.stop]] if r.stage == 0 else unanimous(r))
    assert (claim.selected, claim.outcome, claim.stage) == (1, "refuted", 1)
    assert (claim.prediction, claim.radius) == (ABSTAIN, 0.0)


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
    assert (undecided.outcome, undecided.draws) == ("out of draws", 3 * 100 + 11_100)


# InputSpecific


def test_input_specific_saves_most_where_the_class_is_unlikely_to_have_a_large_radius() -> None:
    mode = InputSpecific(max_loss=0.05)
    needed = [drive(mode, partial(lambda p, r: [[round(p * (r.stop - r.start)), 0]], p))[0].n for p in (0.6, 0.9, 1.0)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1] < 100_000


def test_two_votes_are_planned_for_and_certified_together() -> None:
    """The planned number of draws depends on the second vote, too, and each of the two bounds uses alpha / 2."""
    mode = InputSpecific(max_loss=0.05, alpha=0.01)
    numbers = []
    for second in (1.0, 0.9, 0.6):
        votes = partial(lambda q, r: [[r.stop, 0], [round(q * r.stop), r.stop - round(q * r.stop)]], second)
        claim, requests = drive(mode, votes, both)
        pilot = (100, round(100 * second))
        planned = input_specific_draws(pilot, 100, 100_000, BLOCK, 0.01, 0.05, 0.05, False, both)
        assert requests == [Draws(0, 0, 100), Draws(1, 0, planned)]
        assert claim.p_lower == tuple(clopper_pearson_lower(claim.hits, planned, 0.005))
        numbers.append(planned)
    assert len(set(numbers)) == 3


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
    made, mode = [], InputSpecific(n0=10)
    monkeypatch.setattr(
        adaptive_sampling, "input_specific_draws", lambda pilot_hits, *_: made.append(pilot_hits) or 100
    )
    for number in range(30):
        drive(mode, voter(0.8, np.random.default_rng(number)), radius)
    assert len(set(made)) == len(made) < 12


# Anytime


def test_anytime_decides_a_radius_as_fixed_does_with_fewer_draws() -> None:
    random, target, n = np.random.default_rng(5), 0.25, 10_000
    probabilities = stats.norm.cdf(random.uniform(0, 2.5, 100))
    agree, draws = 0, []
    for p in probabilities:
        fixed, _ = drive(FixedSampling(n=n), voter(p, random))
        early, _ = drive(Anytime(radius=target, n_max=n), voter(p, random))
        agree += (fixed.radius >= target) == (early.radius >= target)
        draws.append(early.draws)
        assert (early.outcome == "certified") == (early.radius >= target)
    assert agree >= 96
    assert np.mean(draws) < n / 4


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 1.0])
def test_anytime_stops_where_more_draws_are_worth_little(p: float) -> None:
    """The mode expects that of 100 more draws, the share of hits equals the share so far."""

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


# Curve


@pytest.mark.nightly
def test_curve_is_a_lower_bound_close_to_that_of_a_hundred_thousand_draws() -> None:
    """For 400 known probabilities, the curve is below the truth, near `FixedSampling`, and needs far fewer draws."""
    random = np.random.default_rng(11)
    truth = random.uniform(-0.1, 1.1, 400)
    curve, fixed = [], []
    for p in stats.norm.cdf(truth / SIGMA):
        curve.append(drive(Curve(), voter(p, random))[0])
        fixed.append(drive(FixedSampling(), voter(p, random))[0])
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    exact = certified_accuracy(truth >= 0, truth, grid)
    accuracies = [
        certified_accuracy([c.prediction == 0 for c in found], [c.radius for c in found], grid)
        for found in (curve, fixed)
    ]
    assert (accuracies[0] <= exact + 0.005).all()
    assert (abs(accuracies[0] - accuracies[1]) <= 0.0101).all()
    assert {c.radius for c in curve} == {0.0, 0.25, 0.5, 0.75}
    assert np.mean([c.draws for c in curve if c.selected == 0]) < 100_100 / 5


@pytest.mark.parametrize(("truth", "place"), [(0.1, 0.0), (0.35, 0.25), (0.65, 0.5), (0.9, 0.75)])
def test_curve_places_an_image_between_neighbours_of_the_grid(truth: float, place: float) -> None:
    claim, _ = drive(Curve(), voter(stats.norm.cdf(truth / SIGMA), np.random.default_rng(0)))
    assert (claim.prediction, claim.radius) == (0, place)
    assert claim.draws < 20_000


def test_curve_spends_nothing_on_a_wrong_class_and_stops_at_the_last_radius_within_reach() -> None:
    claim, requests = drive(Curve(n0=100), unanimous, label=1)
    assert (claim.prediction, claim.outcome, claim.draws) == (ABSTAIN, "wrong class", 100)
    assert requests == [Draws(0, 0, 100)]
    best, _ = drive(Curve(), unanimous)
    assert best.radius == 0.75  # 1.0 is four sigma, more than any hundred thousand draws can certify
    assert one_sided_anytime_lower(best.n, best.n, 0.001) >= stats.norm.cdf(3)
    assert best.n < 7000


def test_early_stopping_of_two_votes_shares_the_level() -> None:
    early, _ = drive(Anytime(radius=0.3, alpha=0.01), nearly_unanimous, both)
    assert early.outcome == "certified"
    assert early.p_lower == tuple(anytime_lower(k, early.n, 0.005) for k in early.hits)
    placed, _ = drive(Curve(grid=0.3, alpha=0.01), nearly_unanimous, both)
    assert placed.radius == 0.6
    assert placed.p_lower == tuple(one_sided_anytime_lower(k, placed.n, 0.004) for k in placed.hits)
    last, _ = drive(Curve(grid=0.01, n_max=2000, alpha=0.01), nearly_unanimous, both)
    assert last.n == 2000
    for k, p in zip(last.hits, last.p_lower, strict=True):
        assert p == max(one_sided_anytime_lower(k, 2000, 0.004), float(clopper_pearson_lower(k, 2000, 0.001)))
