import pytest
import torch

from datamodules.corruptions.image_noise import (
    CounterRNG,
    Gamma,
    Gaussian,
    ImageNoise,
    Poisson,
)


@pytest.mark.parametrize("noise", [Gaussian((5, 55)), Poisson((0.005, 0.1)), Gamma((40, 120))])
def test_levels_that_are_told_are_those_that_noise_was_drawn_with(noise: ImageNoise) -> None:
    clean, index = torch.full((3, 1, 48, 48), 0.5, dtype=torch.float64), torch.tensor([4, 9, 2])
    levels = noise.drawn_levels(clean, CounterRNG(0, 1, index))
    assert levels.shape == (3, 1, 1, 1)
    noisy = noise.sample(clean, CounterRNG(0, 1, index))
    for row in range(3):
        one = type(noise)(float(levels[row]))  # type: ignore[call-arg]
        assert one.drawn_levels(clean, CounterRNG(0, 1, index)) is None
        alike = one.sample(clean, CounterRNG(0, 2, index))[row]
        assert float(noisy[row].std() / alike.std()) == pytest.approx(1, abs=0.12)
