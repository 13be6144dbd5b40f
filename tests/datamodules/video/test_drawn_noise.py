"""The types of synthetic noise: their distributions, and the features that distinguish them."""

import numpy as np
import pytest

from datamodules.video.drawn_noise import DrawnNoise, stripe_noise, waves

SHAPE = (6, 3, 32, 48)


def many(pattern, count: int = 60) -> np.ndarray:
    return np.stack([pattern(SHAPE, np.random.default_rng(seed)) for seed in range(count)])


@pytest.mark.parametrize("pattern", [stripe_noise, waves])
def test_noise_has_mean_zero_and_variance_one(pattern) -> None:
    drawn = many(pattern)
    assert abs(drawn.mean()) < 0.03
    assert drawn.var() == pytest.approx(1, abs=0.06)


def test_stripes_lie_in_rows_and_waves_do_not() -> None:
    # Half of the variance of stripes is common to a row's pixels; frames are independent.
    rows = many(stripe_noise).mean(axis=-1).var()
    assert rows == pytest.approx(0.5, abs=0.08)
    assert many(waves).mean(axis=-1).var() < 0.1
    first, second = many(stripe_noise)[:, 0], many(stripe_noise)[:, 3]
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.05
    still = np.corrcoef(many(waves)[:, 0].flatten(), many(waves)[:, 3].flatten())[0, 1]
    assert 0.2 < still < 0.9  # blotches stay, waves drift


def test_noise_lies_around_the_mean_of_its_clip() -> None:
    clip = np.broadcast_to(np.array([60, 120, 150], dtype=np.uint8)[:, None, None], SHAPE)
    source = DrawnNoise(deviation=(0.1, 0.1))
    source.check(SHAPE, "data.noise")
    drawn = source.draw(clip, np.random.default_rng(0))
    assert (drawn.shape, drawn.dtype) == (SHAPE, np.uint8)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2, 3)), [60, 120, 150], atol=4)
    assert drawn[:, 1].std() == pytest.approx(25.5, abs=3)
    assert np.array_equal(drawn, source.draw(clip, np.random.default_rng(0)))
