import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.robustness.rrcm.noise_conditioned import (
    NoiseConditionedClassifier,
    input_scale,
    kept_by_target,
    nearest_level,
    noise_level,
    num_levels,
    represent,
)
from tests.robustness.rrcm.small import small_encoder


@pytest.mark.parametrize("count", [21, 41, 81])
def test_levels_fall_from_80_to_a_500th(count: int) -> None:
    levels = [noise_level(index, count) for index in range(count)]
    assert levels[0] == pytest.approx(80, rel=1e-12)
    assert levels[-1] == pytest.approx(0.002, rel=1e-12)
    assert all(first > second for first, second in itertools.pairwise(levels))
    roots = np.array(levels) ** (1 / 7)  # evenly spaced
    np.testing.assert_allclose(np.diff(roots), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / (count - 1), rtol=1e-9)


@pytest.mark.parametrize(("num_steps", "last_of_41"), [(300_000, 129_203), (600_000, 258_406)])
def test_curriculum_of_the_papers(num_steps: int, last_of_41: int) -> None:
    at = {0: 21, 1: 41, last_of_41: 41, last_of_41 + 1: 81, num_steps: 81}
    assert {step: num_levels(step, num_steps) for step in at} == at


@pytest.mark.parametrize("steepness", [10.0, 15.0])
def test_the_target_keeps_more_and_more(steepness: float) -> None:
    kept = [kept_by_target(step, 1000, steepness) for step in range(1201)]
    assert kept[0] == pytest.approx(0.99, abs=1e-15)
    assert all(first <= second for first, second in itertools.pairwise(kept))
    end = math.tanh(steepness / 2)  # 2 sigmoid(A) - 1
    assert kept[1000] == kept[1200] == pytest.approx(end * 0.9999 + (1 - end) * 0.99, abs=1e-14)
    e = math.sqrt((0.9999**2 + 0.99**2) / 2)
    c = math.tanh(steepness * (e - 0.99) / 0.0099 / 2)
    assert kept[500] == pytest.approx(c * 0.9999 + (1 - c) * 0.99, abs=1e-12)


@pytest.mark.parametrize(("sigma", "index", "level"), [(0.25, 53, 0.4927), (0.5, 48, 0.9654), (1.0, 42, 2.0036)])
def test_the_level_that_a_network_is_told(sigma: float, index: int, level: float) -> None:
    assert nearest_level(2 * sigma, 81) == index
    assert noise_level(index, 81) == pytest.approx(level, abs=5e-5)


@given(t=st.floats(0.002, 80))
def test_networks_see_unit_variance_and_the_nearest_level_is_nearest(t: float) -> None:
    assert input_scale(t) ** 2 * (0.5**2 + t**2) == pytest.approx(1, rel=1e-12)
    chosen = abs(noise_level(nearest_level(t, 81), 81) - t)
    assert all(chosen <= abs(noise_level(index, 81) - t) for index in range(81))


def test_networks_are_shown_scaled_images_and_times() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(image: Tensor, time: Tensor) -> Tensor:
        seen.append((image, time))
        return image.flatten(1)

    image, noise = torch.randint(0, 2, (64, 1, 16, 16)).double() - 0.5, torch.randn(64, 1, 16, 16).double()
    features = represent(network, [image + t * noise for t in (0.002, 1.0, 80.0)], [0.002, 1.0, 80.0])  # type: ignore[arg-type]
    [(shown, time)] = seen
    for part, feature in zip(shown.chunk(3), features, strict=True):
        assert torch.equal(part.flatten(1), feature)
        torch.testing.assert_close(part.std(), torch.tensor(1.0).double(), rtol=0.02, atol=0)
    expected = torch.tensor([250 * math.log(t) for t in (0.002, 1.0, 80.0)]).double().repeat_interleave(64)
    torch.testing.assert_close(time, expected)


def test_the_head_begins_near_zero() -> None:
    classifier = NoiseConditionedClassifier(small_encoder(), 12, 50, 0.25)
    assert classifier.head.bias.abs().max() == 0
    assert 1e-5 < classifier.head.weight.std() < 3e-5
