from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules.corruptions.image_noise import (
    CorrelatedGaussian,
    CounterRNG,
    Gamma,
    Gaussian,
    ImageNoise,
    Impulse,
    Poisson,
)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(-1), r"grey_levels must be in \[0, 255\], got -1"),
        (lambda: Gaussian((0, 50)), r"grey_levels must be in \(0, 255\], got 0"),
        (lambda: Gaussian((50, 25)), r"grey_levels must be one number, or a lower and a higher one, got \[50, 25\]"),
        (lambda: Gaussian(float("nan")), "grey_levels must be"),
        (lambda: CorrelatedGaussian(300), "grey_levels must be"),
        (lambda: CorrelatedGaussian(25, 0), "blur must be positive, got 0"),
        (lambda: Poisson(0), r"zeta must be in \(0, 1\], got 0"),
        (lambda: Gamma(1), r"shape must be in \(1, inf\], got 1"),
        (lambda: Impulse(1.1), r"rate must be in \[0, 1\], got 1.1"),
        (lambda: Impulse(0.1, -0.1), r"salt must be in \[0, 1\], got -0.1"),
        (lambda: Poisson((0.01, 0.1)).score_input(torch.ones(1)), r"zeta \[0.01, 0.1\] is a range"),
    ],
)
def test_parameters_outside_their_domain_are_refused_by_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_laws_without_a_closed_form_say_so() -> None:
    one = torch.ones(1, 1, 2, 2)
    with pytest.raises(TypeError, match="CorrelatedGaussian has no likelihood"):
        CorrelatedGaussian().log_likelihood(one, one)
    with pytest.raises(TypeError, match="Impulse has no Tweedie formula"):
        Impulse().posterior_mean(one, one)


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
    assert levels is not None
    assert levels.shape == (3, 1, 1, 1)
    noisy = noise.sample(clean, CounterRNG(0, 1, index))
    for row in range(3):
        one = type(noise)(float(levels[row]))  # type: ignore[call-arg]
        assert one.drawn_levels(clean, CounterRNG(0, 1, index)) is None
        alike = one.sample(clean, CounterRNG(0, 2, index))[row]
        assert float(noisy[row].std() / alike.std()) == pytest.approx(1, abs=0.12)
