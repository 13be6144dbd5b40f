import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules.corruptions.image_noise import (
    CounterRNG,
    Gamma,
    Gaussian,
    ImageNoise,
    Poisson,
)


def test_a_config_gives_one_level_or_a_range() -> None:
    parser = ArgumentParser()
    parser.add_argument("--noise", type=ImageNoise)
    package = "datamodules.corruptions.image_noise"
    for text, level in (("25", 25.0), ("[5, 50]", (5, 50))):
        built = parser.instantiate(parser.parse_args([f"--noise={package}.Gaussian", f"--noise.grey_levels={text}"]))
        assert built.noise == Gaussian(level)  # type: ignore[arg-type]


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
