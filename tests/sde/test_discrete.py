"""Levels of discrete diffusion, and the three quantities that models predict."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.sde.discrete import (
    Prediction,
    clean_estimate,
    diffusion_target,
    first_timestep,
    noise_levels,
    scheduler_levels,
)


def levels(**options: Any) -> np.ndarray:
    return scheduler_levels(DDPMScheduler(**options))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"}, (1158, 1984, 2809)),
        ({"num_train_timesteps": 1000, "beta_schedule": "linear"}, (145, 259, 396)),
    ],
    ids=["improved diffusion on CIFAR-10", "guided diffusion on ImageNet"],
)
def test_timesteps_are_those_of_the_published_code(schedule: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert tuple(first_timestep(sigma, levels(**schedule)) for sigma in (0.25, 0.5, 1.0)) == expected


@given(sigma=st.floats(0.01, 5), num=st.sampled_from([50, 1000]))
@settings(max_examples=50, deadline=None)
def test_the_level_is_the_first_with_enough_noise(sigma: float, num: int) -> None:
    abar = levels(num_train_timesteps=num, beta_schedule="squaredcos_cap_v2")
    t = first_timestep(sigma, abar)
    assert math.sqrt((1 - abar[t]) / abar[t]) >= 2 * sigma
    assert t == 0 or math.sqrt((1 - abar[t - 1]) / abar[t - 1]) < 2 * sigma
    assert t == next(i for i in range(num) if noise_levels(abar)[i] >= sigma)


def test_more_noise_than_the_scheduler_has_is_refused() -> None:
    abar = levels(num_train_timesteps=10, beta_start=0.01, beta_end=0.1)
    most = float(noise_levels(abar)[-1])
    assert first_timestep(most, abar) == 9
    with pytest.raises(ValueError, match=rf"sigma must be at most {most:.4g}.*got 1\.5"):
        first_timestep(1.5, abar)


@settings(max_examples=30, deadline=None)
@given(abar=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_kinds_of_prediction_agree(abar: float, seed: int) -> None:
    image, noise, weight = 2 * rand(3, 2, 4, 4, seed=seed) - 1, randn(3, 2, 4, 4, seed=seed), torch.tensor(abar)
    weights = torch.full((3, 1, 1, 1), abar, dtype=torch.float64)
    noisy = math.sqrt(abar) * image + math.sqrt(1 - abar) * noise
    for prediction in get_args(Prediction):
        output = diffusion_target(image, noise, weights, prediction)
        torch.testing.assert_close(clean_estimate(output, noisy, abar, prediction), image, rtol=0, atol=1e-9)
        with_variance = torch.cat([output, randn(3, 2, 4, 4, seed=seed + 1)], dim=1)
        torch.testing.assert_close(clean_estimate(with_variance, noisy, weights, prediction), image, rtol=0, atol=1e-9)
    # This agrees with the definition of v in diffusers.
    scheduler = DDPMScheduler(trained_betas=[1 - float(weight)])
    velocity = scheduler.get_velocity(image, noise, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(diffusion_target(image, noise, weights, "v_prediction"), velocity, rtol=0, atol=1e-5)
