import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_modules.robustness.certificates.statistics import clopper_pearson_lower, gaussian_radius
from lightning_modules.robustness.drs.radius import joint_radius, published_radius_cifar10, published_radius_imagenet

probabilities = st.floats(1e-6, 1 - 1e-6)
sigmas = st.floats(0.05, 2.0)


@given(p=probabilities, sigma=sigmas)
def test_equal_votes_have_the_radius_of_one_vote_at_more_noise(p: float, sigma: float) -> None:
    expected = gaussian_radius(p, math.sqrt(2) * sigma)
    assert joint_radius([p, p], [sigma, sigma]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(p=probabilities, q=probabilities, rise=st.floats(0, 1), sigma=sigmas, other=sigmas)
def test_radius_is_symmetric_monotone_and_that_of_equal_noise(
    p: float, q: float, rise: float, sigma: float, other: float
) -> None:
    radius = joint_radius([p, q], [sigma, other])
    assert radius == pytest.approx(joint_radius([q, p], [other, sigma]), rel=1e-12, abs=1e-12)
    assert joint_radius([p + rise * (1 - 1e-6 - p), q], [sigma, other]) >= radius - 1e-12
    equal = sigma / math.sqrt(2) * (stats.norm.ppf(p) + stats.norm.ppf(q))
    assert joint_radius([p, q], [sigma, sigma]) == pytest.approx(equal, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("left", "right"), [(0.4, 0.4), (0.9, 0.1), (1.0, -0.3), (-0.2, 0.7)])
@pytest.mark.parametrize("sigma", [(0.25, 0.25), (0.2, 0.5)])
def test_radius_is_tight_for_two_half_spaces(left: float, right: float, sigma: tuple[float, float]) -> None:
    """Vote s is class 0 where w_s . x_s <= c_s, |w_s| = 1, with margin m_s: its probability is Phi(m_s / sigma_s).

    The worst perturbation has length R, divided between w_l and w_r in proportion to 1 / sigma_s.
    """
    margins = np.array([left, right])
    probability = stats.norm.cdf(margins / sigma)
    radius = joint_radius(probability.tolist(), sigma)
    assert radius > 0
    direction = 1 / np.array(sigma)
    direction /= np.linalg.norm(direction)
    inside, outside = (
        stats.norm.cdf((margins - radius * stretch * direction) / sigma).sum() for stretch in (1 - 1e-3, 1 + 1e-3)
    )
    assert inside > 1 > outside
    for angle in np.linspace(0, 2 * np.pi, 60):  # no other direction flips the result within this radius
        change = radius * (1 - 1e-9) * np.array([np.cos(angle), np.sin(angle)])
        assert stats.norm.cdf((margins - change) / sigma).sum() > 1


def test_a_vote_below_one_half_lessens_the_radius_and_does_not_void_it() -> None:
    """The published code counts a vote below 1/2 as 1/2, and its radius therefore exceeds the proved one."""
    p, sigma = [0.95, 0.4], 0.3
    radius = joint_radius(p, [sigma, sigma])
    assert 0 < radius < sigma * stats.norm.ppf(0.95) / math.sqrt(2)
    assert published_radius_imagenet(p, sigma) == pytest.approx(sigma * stats.norm.ppf(0.95) / math.sqrt(2))
    assert published_radius_imagenet(p, sigma) > radius
    assert joint_radius([0.6, 0.3], [sigma, sigma]) < 0 < published_radius_cifar10([0.6, 0.3], sigma)


@given(p=st.floats(0.51, 0.999), q=st.floats(0.51, 0.999), sigma=sigmas)
def test_the_published_formula_exceeds_the_theorem_unless_the_votes_are_equal(p: float, q: float, sigma: float) -> None:
    radius = joint_radius([p, q], [sigma, sigma])
    assert published_radius_imagenet([p, q], sigma) == pytest.approx(radius, rel=1e-9)
    excess = published_radius_cifar10([p, q], sigma) - radius
    # hypot(a, b) - (a + b) / sqrt(2) is (a - b)^2 / 2 divided by their sum.
    difference = sigma * (stats.norm.ppf(p) - stats.norm.ppf(q))
    total = published_radius_cifar10([p, q], sigma) + radius
    assert excess == pytest.approx(difference**2 / 2 / total, rel=1e-6, abs=1e-12)


def test_no_hit_means_no_claim() -> None:
    assert joint_radius([0.0, 0.999], [0.25, 0.25]) == -math.inf
    assert published_radius_cifar10([0.4, 0.5], 0.25) == published_radius_imagenet([0.4, 0.5], 0.25) == -math.inf


def test_both_bounds_hold_together_at_the_stated_level() -> None:
    """Each bound uses alpha / 2, and at least one of them fails with probability at most alpha."""
    random, n, alpha, repeats = np.random.default_rng(0), 500, 0.02, 5000
    hits = random.binomial(n, 0.9, size=(repeats, 2))
    failed = (clopper_pearson_lower(hits, n, alpha / 2) > 0.9).any(axis=1).mean()
    assert failed <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert (clopper_pearson_lower(hits, n, alpha) > 0.9).any(axis=1).mean() > failed
