import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.noisy_labels.lsa.loss_mixture import high_mode_probability, min_max


def two_modes(low: int, high: int, distance: float, seed: int = 0) -> np.ndarray:
    """Losses of two modes of unit variance, the low ones first."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(10, 1, low), random.normal(10 + distance, 1, high)])


def test_min_max_fills_the_unit_interval() -> None:
    np.testing.assert_allclose(min_max([3.0, 5.0, 4.0]), [0, 1, 0.5])
    np.testing.assert_array_equal(min_max([2.0, 2.0]), [0, 0])
    np.testing.assert_allclose(min_max([0.0, 4.0, np.inf, 1.0]), [0, 1, 1, 0.25])


@settings(deadline=None, max_examples=15)
@given(scale=st.floats(0.1, 1e4), shift=st.floats(-100, 100), seed=st.integers(0, 50))
def test_probability_does_not_depend_on_units(scale: float, shift: float, seed: int) -> None:
    losses = two_modes(60, 40, 8, seed)
    np.testing.assert_allclose(
        high_mode_probability(scale * losses + shift), high_mode_probability(losses), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("random_state", range(8))
def test_the_high_mode_is_the_one_with_the_greater_mean_whatever_the_initialisation(random_state: int) -> None:
    for losses in (two_modes(150, 50, 10), two_modes(50, 150, 10)):
        probability = high_mode_probability(losses, random_state=random_state)
        np.testing.assert_array_equal(probability > 0.5, losses > 15)


def test_probability_is_that_of_bayes_for_the_fitted_modes() -> None:
    """With many iterations, well separated modes are fitted by their own means and variances."""
    losses = two_modes(4000, 2000, 6)
    scaled = min_max(losses)
    low, high = scaled[:4000], scaled[4000:]
    density = [
        share * np.exp(-((scaled - mode.mean()) ** 2) / (2 * mode.var())) / mode.std()
        for share, mode in ((2 / 3, low), (1 / 3, high))
    ]
    expected = density[1] / (density[0] + density[1])
    found = high_mode_probability(losses, max_iter=500, tol=1e-9, reg_covar=1e-9)
    assert np.abs(found - expected).max() < 0.02


@pytest.mark.parametrize("losses", [[1.0], [1.0] * 50, [0.0] * 7])
def test_one_mode_has_no_high_one(losses: list[float]) -> None:
    np.testing.assert_array_equal(high_mode_probability(losses), np.zeros(len(losses)))


def test_infinite_losses_belong_to_the_high_mode_and_nan_or_none_is_refused() -> None:
    losses = two_modes(80, 20, 8)
    losses[-3:] = np.inf
    np.testing.assert_array_equal(high_mode_probability(losses) > 0.95, np.arange(100) >= 80)
    losses[5] = np.nan
    with pytest.raises(ValueError, match="1 of 100 are NaN"):
        high_mode_probability(losses)
    with pytest.raises(ValueError, match="none of 0 losses is finite"):
        high_mode_probability([])
