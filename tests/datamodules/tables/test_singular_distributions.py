import math

import pytest
import torch
from torch import Tensor

from datamodules.tables.singular_distributions import (
    Circle,
    DigitVectors,
    ProductOfCircles,
    SingularLaw,
    SmoothMap,
    SwissRoll,
)


@pytest.mark.parametrize("law", [Circle, ProductOfCircles, SwissRoll, SmoothMap])
def test_samples_are_seeded_and_have_the_stated_noise(law: type[SingularLaw]) -> None:
    exact, again, other = (law(samples=5000, seed=seed).training().columns["features"] for seed in (0, 0, 1))
    assert exact.shape == (5000, law.dim)
    assert torch.equal(exact, again)
    assert not torch.equal(exact, other)
    noise = law(samples=5000, noise_std=0.05, seed=0).training().columns["features"] - exact
    assert float(noise.std()) == pytest.approx(0.05, rel=0.03)
    test = law(noise_std=0.05, seed=0).test().columns["features"]
    torch.testing.assert_close(test.mean(0), exact.mean(0), atol=0.06, rtol=0)  # noise-free, same distribution


def test_points_lie_where_the_law_says() -> None:
    assert Circle(seed=0).test().columns["features"].norm(dim=1).sub(1).abs().max() < 1e-12
    pairs: Tensor = ProductOfCircles(seed=0).training().columns["features"].view(-1, 2, 2)
    torch.testing.assert_close(pairs.norm(dim=2), torch.ones(200, 2, dtype=torch.float64))
    assert abs(torch.corrcoef(pairs[:, :, 0].T)[0, 1]) < 0.2
    roll = SwissRoll(seed=0).training().columns["features"]
    angle = roll[:, [0, 2]].norm(dim=1)
    torch.testing.assert_close(roll[:, 0], angle * (10 * angle).cos())
    mapped = SmoothMap(samples=1000, seed=0).training().columns["features"]
    assert torch.linalg.matrix_rank(mapped - mapped.mean(0)) == 10  # curved: not in a plane


def test_digits_are_split_by_seed() -> None:
    training, test = (
        DigitVectors(seed=3).training().columns["features"],
        DigitVectors(seed=3).test().columns["features"],
    )
    assert (len(training), len(test)) == (1297, 500)
    assert test.max() <= 1
    assert torch.cdist(training, test).min() > 0


def test_the_roll_turns_one_and_a_half_times_and_validation_has_points_of_its_own() -> None:
    table = SwissRoll(samples=2000, test_samples=500, seed=0)
    training, validation = table.training().columns["features"], table.validation().columns["features"]
    angle = 10 * training[:, [0, 2]].norm(dim=1) / math.pi
    assert float(angle.min()) == pytest.approx(1.5, abs=0.01)
    assert float(angle.max()) == pytest.approx(4.5, abs=0.01)
    assert torch.cdist(training, validation).min() > 0
