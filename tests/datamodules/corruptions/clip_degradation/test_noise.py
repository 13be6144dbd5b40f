"""The distribution of noise in clips, and random walks of its strength."""

import numpy as np
import pytest
import torch

from datamodules.corruptions.clip_degradation.interface import walk
from datamodules.corruptions.clip_degradation.noise import RandomNoise, counts_of_white, poisson_noise

GREY = torch.full((4, 3, 60, 60), 0.5)
END = (60, 60)


def noise(seed: int = 0, **options: object) -> torch.Tensor:
    return RandomNoise(**options).apply(GREY, np.random.default_rng(seed), END) - GREY  # type: ignore[arg-type]


def test_gaussian_noise_has_its_deviation_in_levels() -> None:
    added = noise(poisson=0, sigma=(20, 20), grey=0) * 255
    assert added.std() == pytest.approx(20, rel=0.01)
    assert abs(added.mean()) < 0.5
    assert abs(torch.corrcoef(added.movedim(1, 0).flatten(1))[0, 1]) < 0.03
    same = noise(poisson=0, grey=1)
    torch.testing.assert_close(same, same[:, :1].expand_as(same), rtol=0, atol=1e-6)  # up to rounding of the sum


def test_strength_is_that_of_its_frame() -> None:
    added = noise(poisson=0, sigma=(1, 30), sigma_step=8.0, grey=0, seed=3) * 255
    random = np.random.default_rng(3)
    random.random(2)
    expected = walk(random, (1, 30), 8.0, 4)
    np.testing.assert_allclose(added.flatten(1).std(dim=1), expected, rtol=0.03)
    assert expected.max() - expected.min() > 3


def test_poisson_noise_is_that_of_counts() -> None:
    # With two levels, 0 and 128 of 255, white corresponds to two counts: their variance is v / 4 for v = 2 x 128 / 255.
    half = torch.cat([torch.zeros_like(GREY[..., :3]), GREY], dim=3)
    operator = RandomNoise(poisson=1, strength=(2, 2), grey=0)
    added = operator.apply(half, np.random.default_rng(0), END) - half
    assert not added[..., :3].any()  # black has no counts
    assert added[..., 3:].var() == pytest.approx(4 * (128 / 255) / 2, rel=0.03)
    halves = 2 * (added[..., 3:] / 2 + 128 / 255)  # whole counts; white is two
    assert (halves - halves.round()).abs().max() < 1e-4
    levels = torch.tensor([[0, 1, 2, 5], [7, 7, 7, 7], [0, 1, 2, 2]]).view(3, 1, 2, 2)
    assert counts_of_white(levels).tolist() == [4, 1, 4]
    assert poisson_noise(GREY, np.random.default_rng(0), grey=True).shape == (4, 1, 60, 60)


def test_walks_stay_within_their_range_and_their_steps() -> None:
    for seed in range(20):
        values = walk(np.random.default_rng(seed), (1, 3), 0.5, 200)
        assert (values.min(), values.max()) == (pytest.approx(1, abs=0.2), pytest.approx(3, abs=0.2))
        assert np.abs(np.diff(values)).max() <= 0.5
        assert values.min() >= 1
        assert values.max() <= 3
    assert walk(np.random.default_rng(0), (0, 9), 0, 3, first=(4, 4)).tolist() == [4, 4, 4]
    assert np.array_equal(*(walk(np.random.default_rng(1), (0, 1), 0.1, 9) for _ in range(2)))
