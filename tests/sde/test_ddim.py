"""Steps and paths of DDIM, compared with diffusers schedulers and with the exact solution for Gaussian data."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from torch import Tensor

from lightning_modules.sde.ddim import ddim, ddim_deviation, ddim_step, scheduler_path
from lightning_modules.sde.discrete import (
    Prediction,
    clean_estimate,
    diffusion_target,
    noise_estimate,
    scheduler_levels,
)

SPACINGS = [
    {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "trailing"},
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(noisy: Tensor, t: Tensor) -> Tensor:
    """Compute a smooth function of image and time, separately for each image of a batch."""
    return torch.tanh(noisy.roll(1, -1) + t.view(-1, 1, 1, 1) / 700)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=["leading, offset", "leading", "trailing"])
@pytest.mark.parametrize(("eta", "clip"), [(0.0, False), (0.7, True)])
def test_a_path_to_images_is_that_of_diffusers(
    spacing: dict[str, Any], prediction: Prediction, eta: float, clip: bool
) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=clip, **spacing)
    x = start = randn(2, 3, 4, 4)
    scheduler.set_timesteps(20)
    drawn = [randn(2, 3, 4, 4, seed=step) for step in range(1, 21)]
    for t, noise in zip(scheduler.timesteps, drawn, strict=True):
        x = scheduler.step(smooth(x, t.expand(2)), t, x, eta=eta, variance_noise=noise).prev_sample
    path, remaining = scheduler_path(scheduler, 20), iter(drawn)
    found = ddim(
        smooth, start, path, scheduler_levels(scheduler), prediction, eta, lambda _: next(remaining), clip=clip
    )
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)
    assert len(path) == 21
    assert path[-1] == (-1 if spacing.get("set_alpha_to_one", True) else 0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_way_back_to_noise_is_that_of_diffusers(prediction: Prediction) -> None:
    scheduler = DDIMInverseScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(20)
    x = start = randn(2, 3, 4, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(smooth(x, t.expand(2)), t, x).prev_sample
    times = [-50, *scheduler.timesteps.tolist()]
    found = ddim(smooth, start, times, scheduler_levels(scheduler), prediction, told=times[1:])
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_full_noise_over_all_times_is_ancestral_sampling() -> None:
    scheduler = DDPMScheduler(clip_sample=False)
    abar = scheduler_levels(scheduler)
    x_t, noise, z = randn(1, 1, 2, 2), randn(1, 1, 2, 2, seed=1), randn(1, 1, 2, 2, seed=2)
    here, there = float(abar[500]), float(abar[499])
    clean = clean_estimate(noise, x_t, here, "epsilon")
    step = ddim_step(clean, noise, there, ddim_deviation(here, there), z)
    beta = 1 - here / there
    mean = (x_t - beta / math.sqrt(1 - here) * noise) / math.sqrt(1 - beta)
    expected = mean + math.sqrt(beta * (1 - there) / (1 - here)) * z
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-12)


class GaussianModel:
    """The best model for N(0, s^2) images: E[x | x_t] in closed form."""

    def __init__(self, abar: Any, s: float, prediction: Prediction) -> None:
        self.abar, self.s, self.prediction = torch.as_tensor(abar), s, prediction

    def __call__(self, noisy: Tensor, t: Tensor) -> Any:
        abar = self.abar[t].view(-1, 1, 1, 1)
        clean = self.s**2 * abar.sqrt() / (self.s**2 * abar + 1 - abar) * noisy
        noise = (noisy - abar.sqrt() * clean) / (1 - abar).sqrt()
        return SimpleNamespace(sample=diffusion_target(clean, noise, abar, self.prediction))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_gaussian_images_are_encoded_and_decoded_by_the_known_map(prediction: Prediction) -> None:
    """Along the ODE, x_t keeps its quantile: x_t / sqrt(s^2 abar_t + 1 - abar_t) is constant."""
    abar = scheduler_levels(DDIMScheduler())
    model = GaussianModel(abar, 0.5, prediction)
    image = randn(3, 1, 2, 2) * 0.5
    rising = list(range(0, 1000))
    deviations = [math.sqrt(0.25 * abar[t] + 1 - abar[t]) for t in (0, 999)]
    latent = ddim(model, image, rising, abar, prediction)
    torch.testing.assert_close(latent, image * deviations[1] / deviations[0], rtol=0.01, atol=0)
    torch.testing.assert_close(ddim(model, latent, rising[::-1], abar, prediction), image, rtol=0.01, atol=0)


def test_estimates_of_one_output_belong_together() -> None:
    x_t, output, abar = randn(2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), torch.tensor(0.3, dtype=torch.float64)
    for prediction in ("epsilon", "v_prediction", "sample"):
        clean, noise = (estimate(output, x_t, abar, prediction) for estimate in (clean_estimate, noise_estimate))  # type: ignore[arg-type]
        torch.testing.assert_close(abar.sqrt() * clean + (1 - abar).sqrt() * noise, x_t)
        torch.testing.assert_close(diffusion_target(clean, noise, abar, prediction), output)  # type: ignore[arg-type]
