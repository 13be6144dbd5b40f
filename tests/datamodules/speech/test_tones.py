import numpy as np
import pytest

from datamodules.speech.tones import ReverberantNotes, Tones, impulse_response


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


def test_a_room_has_its_reverberation_time_and_its_direct_sound() -> None:
    random, rate = np.random.default_rng(0), 2000
    tails = np.array([impulse_response(random, 0.2, 3.0, 800, rate) for _ in range(400)])
    assert (tails[:, 0] == 1).all()
    np.testing.assert_allclose(10 * np.log10(1 / (tails[:, 1:] ** 2).sum(axis=1)), 3.0)
    level = 10 * np.log10((tails[:, 1:] ** 2).mean(axis=0))
    slope = np.polyfit(np.arange(1, 800) / rate, level, 1)[0]
    assert slope == pytest.approx(-60 / 0.2, rel=0.01)  # decibels per second


def test_notes_follow_from_seed_and_split_and_keep_their_direct_sound() -> None:
    first, again = (ReverberantNotes(8, seed=1).recordings("training") for _ in range(2))
    np.testing.assert_array_equal(first.noisy, again.noisy)
    assert not np.array_equal(first.clean, ReverberantNotes(8, 8, seed=1).recordings("test").clean)
    clean, heard = (np.array(each, dtype=float) / 32767 for each in (first.clean, first.noisy))
    assert np.abs(heard).max(axis=1) == pytest.approx(0.9, abs=1e-4)
    assert ((clean == 0).mean(axis=1) > 0.2).all()  # pauses
    np.testing.assert_allclose(heard[:, 0], clean[:, 0], atol=1e-4)  # before the first reflection
    assert ((heard[clean == 0] ** 2).mean()) > 1e-4  # reverberation in the pauses
