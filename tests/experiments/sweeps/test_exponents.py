import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from experiments.sweeps.exponents import fitted_exponent

X = 2.0 ** np.arange(4, 11)


@given(st.floats(-3, 3), st.floats(1e-3, 1e3), st.integers(1, 4))
def test_an_exact_law_is_found_whatever_its_factor(exponent: float, factor: float, seeds: int) -> None:
    factors = factor * np.arange(1, seeds + 1)
    law = fitted_exponent(X, factors[:, None] * X**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-10)
    assert law.factor == pytest.approx(np.exp(np.log(factors).mean()), rel=1e-9)
    assert law(X) == pytest.approx(law.factor * X**exponent, rel=1e-9)
    assert law.error < 1e-10
    assert law.used == tuple(X)


def test_the_interval_of_one_seed_is_that_of_the_regression() -> None:
    random = np.random.default_rng(0)
    y = np.exp(0.7 * np.log(X) + 0.2 * random.normal(size=len(X)))
    law = fitted_exponent(X, y)
    design = np.stack([np.ones(len(X)), np.log(X)], axis=1)
    estimate, residuals, *_ = np.linalg.lstsq(design, np.log(y), rcond=None)
    error = math.sqrt(residuals[0] / (len(X) - 2) * np.linalg.inv(design.T @ design)[1, 1])
    assert (law.exponent, law.error) == pytest.approx((estimate[1], error), rel=1e-10)
    assert law.high - law.exponent == pytest.approx(t.ppf(0.975, len(X) - 2) * error, rel=1e-10)


@pytest.mark.parametrize(("seeds", "shared"), [(1, 0.0), (2, 0.5), (6, 0.5)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, shared: float) -> None:
    """Also with noise that is common to all values of a seed, so that the slope differs between seeds."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(1000):
        slopes = -0.5 + shared * random.normal(size=(seeds, 1))
        y = np.exp(slopes * np.log(X) + random.normal(size=(seeds, 1)) + 0.3 * random.normal(size=(seeds, len(X))))
        law = fitted_exponent(X, y, confidence=0.9)
        covered += law.low <= -0.5 <= law.high
    assert covered / 1000 == pytest.approx(0.9, abs=0.03)


def test_where_a_seed_has_no_value_the_others_are_left_out() -> None:
    y = np.tile(X**0.5, (3, 1))
    y[1, 6], y[0, 5], y[2, 4] = math.nan, math.inf, -1.0
    y[0, 4:] *= 100  # would change the exponent
    law = fitted_exponent(X, y)
    assert law.exponent == pytest.approx(0.5)
    assert (law.used, law.left_out, law.seeds) == (tuple(X[:4]), tuple(X[4:]), 3)
    twice = fitted_exponent([*X, X[6]], [*X**0.5, math.nan])
    assert twice.left_out == (X[6],)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2, 4], [[1, 2, math.nan]], "2 points have a positive value for every seed"),
        ([1, 2, 2, 1], [1, 2, 2, 1], "2 points have"),
        ([0, 1, 2], [1, 2, 3], "x must be positive, got 0"),
        ([1, 2, 4], [1, 2], r"got \[3\] and \[1, 2\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: list[float], y: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fitted_exponent(x, y)
