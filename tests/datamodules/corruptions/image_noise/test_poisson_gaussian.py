"""Estimates from single images are compared with simulated noise, and transforms with sums over its distribution."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage import data
from torch import Tensor

from datamodules.corruptions.image_noise import CounterRNG, PoissonGaussian
from datamodules.corruptions.image_noise.poisson_gaussian import (
    estimate_poisson_gaussian,
    fit_noise_line,
    invert_stabilization,
    stabilize_variance,
)

NOISES = [PoissonGaussian(0.002, 0.01), PoissonGaussian(0.01, 0.02), PoissonGaussian(0.05, 0.05)]


def noisy_image(name: str, noise: PoissonGaussian, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return an image of one channel, and a noisy version of it."""
    grey = np.tile(np.linspace(10, 245, 400), (400, 1)) if name == "ramp" else getattr(data, name)()
    clean = torch.tensor(grey / 255)[None, None]
    return clean, noise.sample(clean, CounterRNG(seed, 0, torch.tensor([0])))


def test_samples_have_the_stated_mean_and_variance() -> None:
    """The standard error of the variance is about 0.5 % for 90,000 pixels."""
    clean = torch.tensor([0.0, 0.1, 0.8], dtype=torch.float64)[:, None, None, None].expand(3, 1, 300, 300)
    noisy = PoissonGaussian(0.02, 0.05).sample(clean, CounterRNG(0, 0, torch.arange(3)))
    torch.testing.assert_close(noisy.mean(dim=(1, 2, 3)), clean[:, 0, 0, 0], atol=2e-3, rtol=0)
    expected = 0.02 * clean[:, 0, 0, 0] + 0.05**2
    torch.testing.assert_close(noisy.var(dim=(1, 2, 3)), expected, atol=0, rtol=0.02)


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("name", ["ramp", "cell", "camera"])
def test_the_variance_of_every_level_is_estimated_from_one_image(name: str, noise: PoissonGaussian) -> None:
    """Errors stated in the documentation: 5 % on smooth images, and 15 % on a photograph with weak noise."""
    clean, noisy = noisy_image(name, noise)
    gain, variance = (float(each) for each in estimate_poisson_gaussian(noisy))
    true = noise.gain * clean + noise.read**2
    error = ((gain * clean + variance) / true - 1).abs().mean()
    assert error < (0.15 if name == "camera" else 0.05)
    assert gain == pytest.approx(noise.gain, rel=0.2)


def test_an_offset_changes_only_the_variance_at_zero() -> None:
    _, noisy = noisy_image("ramp", NOISES[1])
    gain, variance = estimate_poisson_gaussian(torch.cat([noisy, 2 * noisy + 0.5], dim=1))
    torch.testing.assert_close(gain[0, 1], 2 * gain[0, 0])
    torch.testing.assert_close(variance[0, 1], 4 * variance[0, 0] - 0.5 * gain[0, 1])


def test_a_line_is_fitted_exactly_and_despite_textured_bins() -> None:
    mean = np.linspace(0.1, 0.9, 40)
    line = 0.01 * mean + 0.002
    assert fit_noise_line(mean, line, 100) == pytest.approx((0.01, 0.002))
    textured = line * np.where(np.arange(40) % 8 == 3, 10, 1)
    assert fit_noise_line(mean, textured, 100) == pytest.approx((0.01, 0.002), rel=0.15)
    falling = 0.02 - 0.01 * mean
    gain, variance = fit_noise_line(mean, falling, 100)
    assert gain == 1e-6
    assert falling.min() < variance < falling.max()


def test_small_and_constant_images() -> None:
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels, got \[31, 40\]"):
        estimate_poisson_gaussian(torch.rand(1, 1, 31, 40))
    gain, variance = estimate_poisson_gaussian(torch.full((1, 2, 32, 32), 0.3))
    assert gain.tolist() == [[1e-6, 1e-6]]
    assert variance.abs().max() < 1e-6


def transformed_moments(rate: float, read: float) -> tuple[float, float]:
    """Mean and variance of f(y) for gain 1, from the Poisson probabilities and Gauss-Hermite quadrature, in float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    photons = np.arange(int(rate + 12 * np.sqrt(rate)) + 40)
    probability = stats.poisson.pmf(photons, rate)[:, None] * weights / weights.sum()
    values = stabilize_variance(torch.tensor(photons[:, None] + read * nodes), 1.0, read**2).numpy()
    mean = (probability * values).sum()
    return float(mean), float((probability * values**2).sum() - mean**2)


@pytest.mark.parametrize("read", [0, 0.1, 0.5, 1, 2, 5, 10])
def test_the_inverse_is_unbiased_at_all_counts_and_the_variance_is_1_at_high_ones(read: float) -> None:
    """The closed form is within 0.05 photons of the exact unbiased inverse. The algebraic inverse is 1/4 too low."""
    for rate in (0, 0.5, 1, 2, 5, 10, 30, 100, 1000):
        mean, variance = transformed_moments(rate, read)
        inverse = float(invert_stabilization(torch.tensor(mean, dtype=torch.float64), 1.0, read**2))
        assert inverse == pytest.approx(rate, abs=0.05)
        if rate >= 5:
            assert variance == pytest.approx(1, abs=0.05)
            assert mean**2 / 4 - 3 / 8 - read**2 == pytest.approx(rate - 1 / 4, abs=0.02)


def test_a_gain_and_an_offset_only_change_the_units() -> None:
    """With y = 0.02 z + 0.3 for counts z with read noise 2, the variance at 0 is (0.02 * 2)^2 - 0.02 * 0.3."""
    z = torch.linspace(-2, 200, 50, dtype=torch.float64)
    y, variance = 0.02 * z + 0.3, 0.04**2 - 0.02 * 0.3
    d = stabilize_variance(y, 0.02, variance)
    torch.testing.assert_close(d, stabilize_variance(z, 1.0, 4.0))
    torch.testing.assert_close(invert_stabilization(d, 0.02, variance), 0.02 * invert_stabilization(d, 1.0, 4.0) + 0.3)
    low = torch.linspace(0, 3, 100, dtype=torch.float64)
    assert (invert_stabilization(low, 1.0, 4.0).diff() >= 0).all()
