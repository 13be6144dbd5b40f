import numpy as np
import pytest
from scipy.stats import gamma

from lightning_modules.denoising.scoredvi.noise_level import (
    fitted_law,
    gradient_threshold,
    law,
    noise_deviation,
    plane_variance,
    prior_weight,
)


@pytest.mark.parametrize("deviation", [0.02, 0.05, 0.1])
def test_the_deviation_of_white_noise_on_a_smooth_image_is_found_a_little_low(deviation: float) -> None:
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0.2, 0.8, 56), np.zeros(60))
    found = plane_variance(smooth + random.normal(0, deviation, smooth.shape)) ** 0.5
    assert 0.72 * deviation < found < 0.98 * deviation


def test_correlated_noise_is_found_behind_its_correlation() -> None:
    """The noise of neighbouring pixels is correlated; that of pixels at a distance of four is not."""
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.06, (1, 61, 61)).repeat(4, axis=1).repeat(4, axis=2)
    assert noise_deviation(0.5 + noise) == pytest.approx(0.06, rel=0.25)


def test_the_law_is_fitted_to_variances_that_follow_it() -> None:
    brightness = np.linspace(0.05, 0.95, 400)
    truth = np.array([0.02, 0.1, 0.5])
    found = fitted_law(brightness, law(truth, brightness), None)
    np.testing.assert_allclose(law(found, brightness), law(truth, brightness), rtol=0.1)


def test_noise_alone_exceeds_the_threshold_of_texture_once_in_a_million() -> None:
    """The moments of the underlying Gamma distribution are those of the summed squared gradients of white noise."""
    random = np.random.default_rng(2)
    patches = random.normal(size=(20_000, 7, 7))
    across, down = 0.5 * (patches[:, :, 2:] - patches[:, :, :-2]), 0.5 * (patches[:, 2:] - patches[:, :-2])
    strength = (across**2).sum(axis=(1, 2)) + (down**2).sum(axis=(1, 2))
    rank = 45  # 49 pixels, without the constants of four interleaved lattices
    expected = gamma(rank / 2, scale=2 * 35 / rank)
    assert gradient_threshold() == pytest.approx(expected.ppf(1 - 1e-6))
    assert strength.mean() == pytest.approx(expected.mean(), rel=0.01)


@pytest.mark.parametrize(("levels", "weight"), [(10.9, 0.5), (11, 1), (25.9, 1), (26.01, 2)])
def test_weights_of_the_prior_change_at_11_and_26_grey_levels(levels: float, weight: float) -> None:
    assert prior_weight(levels / 255 + 1e-9) == weight


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 36 pixels per side, got 35 x 40"):
        noise_deviation(np.zeros((1, 35, 40)))
