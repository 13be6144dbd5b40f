import numpy as np
import pytest

from datamodules.speech.tones import Tones, at_snr


def test_noise_has_its_ratio() -> None:
    clean, noise = np.random.default_rng(0).standard_normal((2, 1000))
    scaled = at_snr(clean, noise, 7.0)
    assert 10 * np.log10(np.mean(clean**2) / np.mean(scaled**2)) == pytest.approx(7.0)


def test_tones_follow_from_seed_and_split_and_have_the_ratios_that_are_stated() -> None:
    first, again, other = (Tones(20, seed=seed).recordings("training") for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.noisy, again.noisy)
    assert not np.array_equal(first.noisy, other.noisy)
    assert not np.array_equal(first.clean[:5], Tones(20, 5, seed=1).recordings("test").clean)
    clean, noisy = (np.array(each, dtype=float) for each in (first.clean, first.noisy))
    ratios = 10 * np.log10((clean**2).mean(1) / ((noisy - clean) ** 2).mean(1))
    assert ratios.min() > -0.1
    assert ratios.max() < 15.1
    spectrum = np.abs(np.fft.rfft(clean, axis=1)) ** 2
    low = spectrum[:, np.fft.rfftfreq(496, 1 / 2000) < 60].sum(1) / spectrum.sum(1)
    assert low.max() < 0.1
