import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    accuracy_with_high_probability,
    anytime_lower,
    anytime_upper,
    average_certified_radius,
    certified_accuracy,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_lower,
    input_specific_draws,
    log_wealth,
    log_wealth_above,
    one_sided_anytime_lower,
    one_sided_anytime_upper,
    predict_or_abstain,
)
from tests.robustness.certificates.simulated_votes import SIGMA, radius

# bounds for a fixed number of draws


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("n", [1, 10, 1000, 100_000])
def test_clopper_pearson_is_the_beta_quantile_and_inverts_the_binomial_tail(n: int, alpha: float) -> None:
    hits = np.unique(np.linspace(0, n, 12).astype(int))
    lower, upper = clopper_pearson_lower(hits, n, alpha), clopper_pearson_upper(hits, n, alpha)
    expected = [0.0 if k == 0 else stats.beta.ppf(alpha, k, n - k + 1) for k in hits]
    np.testing.assert_allclose(lower, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(clopper_pearson_lower(n, n, alpha), alpha ** (1 / n), rtol=0, atol=1e-12)
    expected = [1.0 if k == n else stats.beta.ppf(1 - alpha, k + 1, n - k) for k in hits]
    np.testing.assert_allclose(upper, expected, rtol=0, atol=1e-12)
    # Check the definition, without the beta distribution: at the bound, at least this many hits have probability alpha.
    np.testing.assert_allclose(stats.binom.sf(hits[1:] - 1, n, lower[1:]), alpha, rtol=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_clopper_pearson_covers(p: float) -> None:
    alpha, n, repeats = 0.01, 500, 20_000
    hits = np.random.default_rng(0).binomial(n, p, repeats)
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert (clopper_pearson_lower(hits, n, alpha) > p).mean() <= limit
    assert (clopper_pearson_lower(hits, n, 4 * alpha) > p).mean() > limit  # the simulation would detect a wrong level


def test_empirical_bernstein_is_the_closed_form() -> None:
    """The bound is that of theorem 4 of Maurer and Pontil, with ln(2 / alpha) = 5, and has the right limits."""
    alpha = 2 * math.exp(-5)
    assert empirical_bernstein_lower(0.8, 0.09, 1001, alpha) == pytest.approx(
        0.8 - math.sqrt(2 * 0.09 * 5 / 1001) - 7 * 5 / 3000, abs=1e-15
    )
    assert empirical_bernstein_lower(1.0, 0.0, 1001, alpha) == pytest.approx(1 - 35 / 3000, abs=1e-15)
    assert empirical_bernstein_lower(0.1, 0.09, 11, alpha) == 0


@pytest.mark.parametrize(("a", "b"), [(60, 3), (2, 1), (0.02, 0.0002)])
def test_empirical_bernstein_covers(a: float, b: float) -> None:
    """The scores have distribution Beta(a, b). The last distribution has nearly only the values 0 and 1."""
    alpha, n, repeats = 0.01, 100, 20_000
    scores = np.random.default_rng(0).beta(a, b, (repeats, n))
    mean, variance, truth = scores.mean(1), scores.var(1, ddof=1), a / (a + b)
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert (empirical_bernstein_lower(mean, variance, n, alpha) > truth).mean() <= limit
    if b < 1:  # without the last term, a sample of equal scores would give a bound above the expectation
        assert (mean - np.sqrt(2 * variance * math.log(2 / alpha) / n) > truth).mean() > limit


def test_empirical_bernstein_is_better_than_a_bound_of_votes_for_scores_of_small_variance() -> None:
    assert empirical_bernstein_lower(0.7, 0.01, 10_000, 0.001) > clopper_pearson_lower(7000, 10_000, 0.001)
    assert empirical_bernstein_lower(0.7, 0.21, 10_000, 0.001) < clopper_pearson_lower(7000, 10_000, 0.001)


# bounds for any number of draws


def test_wealth_is_the_mixture_of_likelihood_ratios() -> None:
    """Compare the closed forms with the integral of the likelihood ratio of q and p over q with the arcsine law."""
    for (k, n), p in itertools.product([(0, 3), (7, 9), (30, 40)], [0.2, 0.6, 0.9]):

        def ratio(u: float, k: int = k, n: int = n, p: float = p) -> float:
            q = math.sin(u) ** 2  # is uniform in u
            return (q / p) ** k * ((1 - q) / (1 - p)) ** (n - k)

        for lowest, wealth in ((0.0, log_wealth), (p, log_wealth_above)):
            begin = math.asin(math.sqrt(lowest))
            mean = integrate.quad(ratio, begin, math.pi / 2)[0] / (math.pi / 2 - begin)
            assert math.exp(wealth(k, n, p)) == pytest.approx(mean, rel=1e-8)


def test_wealth_is_a_fair_game() -> None:
    """At p, the expected wealth after one more draw equals the current wealth; below p, one-sided wealth falls."""
    for k, n, p in [(0, 0, 0.3), (3, 7, 0.5), (90, 100, 0.95)]:
        for wealth in (log_wealth, log_wealth_above):
            now = math.exp(wealth(k, n, p))
            hit, miss = math.exp(wealth(k + 1, n + 1, p)), math.exp(wealth(k, n + 1, p))
            assert p * hit + (1 - p) * miss == pytest.approx(now, rel=1e-9)
        assert 0.8 * p * hit + (1 - 0.8 * p) * miss < now


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_anytime_bounds_are_ordered(alpha: float) -> None:
    for n in (1, 7, 100, 100_000):
        for k in {0, 1, n // 2, round(0.9 * n), n - 1, n} & set(range(n + 1)):
            lower, tighter = anytime_lower(k, n, alpha), one_sided_anytime_lower(k, n, alpha)
            assert 0 <= lower <= tighter <= float(clopper_pearson_lower(k, n, alpha)) + 1e-12
            assert tighter <= k / n <= one_sided_anytime_upper(k, n, alpha) <= anytime_upper(k, n, alpha) <= 1
            if k:  # the bound is where the wealth equals the threshold
                assert float(log_wealth(k, n, lower)) == pytest.approx(math.log(1 / alpha), abs=1e-4)
                assert float(log_wealth_above(k, n, tighter)) == pytest.approx(math.log(1 / alpha), abs=1e-4)


@pytest.mark.parametrize("p", [0.5, 0.99])
@pytest.mark.parametrize("wealth", [log_wealth, log_wealth_above])
def test_anytime_bound_is_never_wrong_too_often(wealth: Callable, p: float) -> None:
    """The bound is wrong, L_n > p, at an n <= 2000 with a mean above p and a wealth against p of at least 1/alpha."""
    alpha, n, repeats = 0.05, 2000, 1000
    hits = (np.random.default_rng(1).random((repeats, n)) < p).cumsum(axis=1)
    draws = np.broadcast_to(np.arange(1, n + 1), hits.shape)
    threshold = math.log(1 / alpha)
    # The one-sided wealth exceeds the other by at most -log P(b > p).
    rich = (hits > p * draws) & (log_wealth(hits, draws, p) >= threshold + math.log(stats.arcsine.sf(p)))
    path, _ = np.nonzero(rich)
    wrong = len(np.unique(path[wealth(hits[rich], draws[rich], p) >= threshold])) / repeats
    margin = 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert wrong <= alpha + margin
    fixed = stats.binom.sf(hits[:, 99::100] - 1, draws[:, 99::100], p) < alpha  # the fixed-n bound, evaluated 20 times
    assert fixed.any(axis=1).mean() > alpha + margin  # the simulation would detect this


# PREDICT and the number of draws


@pytest.mark.parametrize("votes", [(60, 40), (70, 30, 0), (0, 55, 45), (500, 400, 100), (30, 30), (10_000, 10_000, 0)])
def test_predict_is_the_two_sided_binomial_test_of_the_top_two(votes: tuple[int, ...]) -> None:
    first, second = sorted(votes)[::-1][:2]
    certain = stats.binomtest(first, first + second, 0.5).pvalue <= 0.01
    assert predict_or_abstain(votes, 0.01) == (votes.index(first) if certain else ABSTAIN)
    assert predict_or_abstain([0, 0], 0.5) == ABSTAIN


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("pilot", [(100,), (97,), (70,), (40,), (97, 70), (99, 45)])
def test_the_planned_number_of_draws_is_the_smallest_that_keeps_the_loss(
    pilot: tuple[int, ...], relative: bool
) -> None:
    """With two votes, each bound uses alpha / 2, and the probabilities move through their intervals together."""
    n_max, alpha, loss, block = 20_000, 0.001, 0.1, 100

    def joint(p_lower) -> float:
        return float(np.mean(SIGMA * stats.norm.ppf(p_lower)))

    of = radius if len(pilot) == 1 else joint
    n = input_specific_draws(pilot, 100, n_max, block, alpha, 0.05, loss, relative, of)

    def largest_loss(n: int) -> float:
        ends = [stats.binomtest(k, 100).proportion_ci(0.95, method="exact") for k in pilot]
        p = np.stack([np.linspace(low, high, 500) for low, high in ends])
        short, long = (
            np.maximum(SIGMA * stats.norm.ppf(stats.beta.ppf(alpha / len(pilot), p * m, m - p * m + 1)).mean(0), 0)
            for m in (n, n_max)
        )
        return float(np.max((long - short) / np.maximum(long, 1e-300) if relative else long - short))

    assert largest_loss(n) <= loss + 2e-3
    assert n % block == 0 or n == n_max
    if n > block:
        assert largest_loss(n - block) > loss - 2e-3


# summary values of a set of certificates


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=1, max_size=40))
@settings(deadline=None, max_examples=30)
def test_average_certified_radius_is_the_area_under_the_curve(rows: list[tuple[bool, float]]) -> None:
    correct, r = zip(*rows, strict=True)
    grid = np.linspace(0, 3.001, 20_001)
    area = np.trapezoid(certified_accuracy(correct, r, grid), grid)
    assert average_certified_radius(correct, r) == pytest.approx(area, abs=2 * 3.001 / 20_000)


def test_certified_accuracy_counts_the_radius_itself_and_no_wrong_image() -> None:
    found = certified_accuracy([True, True, True, False], [0.0, 0.25, 0.5, 9.0], [0, 0.25, 0.2500001, 0.5, 1])
    np.testing.assert_array_equal(found, [0.75, 0.5, 0.25, 0.25, 0])


@pytest.mark.parametrize("m", [1, 100, 500, 2000, 10_000, 50_000])
@pytest.mark.parametrize("alpha", [1e-4, 0.001, 0.01])
def test_high_probability_accuracy_is_the_largest_bound_on_wrong_certificates(alpha: float, m: int) -> None:
    """The allowed number of wrong certificates is the smallest that is exceeded with probability at most rho."""
    rho = 1e-3
    share = 1.0 - float(accuracy_with_high_probability(1.0, alpha, m, rho))
    allowed = round(share * m)
    assert share == pytest.approx(allowed / m, abs=1e-12)
    assert stats.binom.sf(allowed, m, alpha) <= rho < stats.binom.sf(allowed - 1, m, alpha)
    assert float(accuracy_with_high_probability(0.5 * share, alpha, m, rho)) == 0
