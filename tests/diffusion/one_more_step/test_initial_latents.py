"""The initial state: its distribution, DDPM's posterior, the scales of diffusers, and Gaussian brightness."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from scipy.stats import wasserstein_distance
from torch import Tensor

from lightning_modules.diffusion.one_more_step.initial_latents import (
    brightness,
    brightness_measures,
    brightness_table,
    first_level,
    given_to_pipeline,
    initial_latents,
)
from lightning_modules.sde.ddim import ddim
from lightning_modules.sde.discrete import scheduler_levels

STABLE_DIFFUSION: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
A = 0.3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("official", "deviation"), [(False, math.sqrt(1 - A)), (True, 1 - A)])
def test_what_is_added_has_the_variance_of_the_posterior(official: bool, deviation: float) -> None:
    clean, fresh = randn(1, 1, 4, 4, seed=1), randn(20_000, 1, 4, 4)
    added = initial_latents(clean, fresh, A, official_variance=official) - math.sqrt(A) * clean
    assert added.mean().item() == pytest.approx(0, abs=0.01)
    assert added.std().item() == pytest.approx(deviation, rel=0.01)


def test_its_limits_are_noise_and_the_estimate() -> None:
    clean, fresh = randn(2, 1, 4, 4, seed=1), randn(2, 1, 4, 4)
    assert torch.equal(initial_latents(clean, fresh, 0.0), fresh)
    assert torch.equal(initial_latents(clean, fresh, 1.0), clean)


def test_it_is_ddpms_posterior_where_the_last_level_is_zero() -> None:
    scheduler = DDPMScheduler(**STABLE_DIFFUSION, clip_sample=False, prediction_type="v_prediction")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod[999] = 0.0
    abar = float(scheduler.alphas_cumprod[998])
    z, v = randn(1, 1, 4, 4), randn(1, 1, 4, 4, seed=1)
    scheduler.set_timesteps(1000)
    drawn = torch.stack(
        [scheduler.step(v, 999, z, generator=torch.Generator().manual_seed(seed)).prev_sample for seed in range(800)]
    )
    expected = initial_latents(-v, torch.zeros_like(v), abar)
    torch.testing.assert_close(drawn.mean(dim=0), expected, rtol=0, atol=5 / math.sqrt(800))
    assert (drawn - expected).square().mean().item() == pytest.approx(1 - abar, rel=0.05)


def test_less_fresh_noise_keeps_more_of_the_first_noise() -> None:
    clean, fresh, z = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), randn(2, 1, 4, 4, seed=2)
    s = 0.4
    found = initial_latents(clean, fresh, A, z, s)
    expected = math.sqrt(A) * clean + math.sqrt(1 - A - s**2) * z + s * fresh
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(initial_latents(clean, fresh, A, z, 0.0), math.sqrt(A) * clean + math.sqrt(1 - A) * z)
    torch.testing.assert_close(initial_latents(clean, fresh, A, z, math.sqrt(1 - A)), initial_latents(clean, fresh, A))
    with pytest.raises(ValueError, match="deviation must be in"):
        initial_latents(clean, fresh, A, z, 0.9)
    for options in ({"start": z, "official_variance": True}, {"start": None}):
        with pytest.raises(ValueError, match=r"deviation needs start and cannot be combined with .*, got 0\.4"):
            initial_latents(clean, fresh, A, deviation=s, **options)  # type: ignore[arg-type]


def test_stable_diffusions_schedule_ends_above_zero() -> None:
    abar = scheduler_levels(DDIMScheduler(**STABLE_DIFFUSION))[999]
    assert abar == pytest.approx(0.0046601, abs=1e-6)
    assert math.sqrt(abar) == pytest.approx(0.0682649, abs=1e-6)
    assert abar / (1 - abar) == pytest.approx(0.0046819, abs=1e-6)


@pytest.mark.parametrize(("steps", "time"), [(20, 951), (50, 981), (4, 751)])
def test_the_level_is_that_of_the_first_time_visited(steps: int, time: int) -> None:
    levels = scheduler_levels(DDIMScheduler(**STABLE_DIFFUSION))
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        scheduler = kind(**STABLE_DIFFUSION, timestep_spacing="leading", steps_offset=1)
        assert first_level(scheduler, steps) == pytest.approx(levels[time], rel=1e-6)
    with torch.device("meta"):  # `compare` instantiates modules on this device before any run
        assert first_level(DDIMScheduler(**STABLE_DIFFUSION, steps_offset=1), steps) == levels[time]
    trailing = DDIMScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing")
    assert first_level(trailing, steps) == pytest.approx(levels[999], rel=1e-6)
    assert trailing.num_inference_steps is None  # the pipeline's own scheduler is unchanged


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, PNDMScheduler, LCMScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler]
)
def test_a_pipeline_scales_the_state_to_its_own_units(kind: Any) -> None:
    scheduler = kind(**STABLE_DIFFUSION, steps_offset=1, timestep_spacing="leading")
    steps = 20
    abar, state = first_level(scheduler, steps), randn(2, 4, 4, 4)
    given = given_to_pipeline(state, scheduler, steps)
    scheduler.set_timesteps(steps)
    latents = given * scheduler.init_noise_sigma  # as `prepare_latents` does
    if hasattr(scheduler, "sigmas"):
        assert float(scheduler.sigmas[0]) == pytest.approx(math.sqrt((1 - abar) / abar), rel=1e-3)
        torch.testing.assert_close(latents, state / math.sqrt(abar), rtol=1e-6, atol=1e-9)
    else:
        assert torch.equal(latents, state)


@pytest.mark.parametrize("d", [256, 1024, 4096])
def test_gaussian_brightness_shrinks_as_the_closed_form_says_and_is_kept_by_the_oracle(d: int) -> None:
    """Images have d pixels, which are b + texture with b ~ N(0, .25); their sum over sqrt(d) has variance d / 4."""
    variance, n = d / 4, 20_000
    abar = scheduler_levels(DDIMScheduler(**STABLE_DIFFUSION))
    levels = torch.from_numpy(abar)

    def model(x: Tensor, t: Tensor) -> Tensor:
        at = levels[t].view(-1, 1, 1, 1)
        return (1 - at).sqrt() / (variance * at + 1 - at) * x

    path = [*np.linspace(999, 0, 300).round().astype(int).tolist(), -1]
    real = math.sqrt(variance) * randn(n, 1, 1, 1)
    fresh = randn(n, 1, 1, 1, seed=1)
    plain = ddim(model, fresh, path, abar)
    last = float(abar[999])
    assert (plain.std() / real.std()).item() == pytest.approx(1 / math.sqrt(1 + last * (variance - 1)), rel=0.03)
    oracle = ddim(model, initial_latents(real, fresh, last), path, abar)
    assert (oracle.std() / real.std()).item() == pytest.approx(1, rel=0.03)
    correlation = torch.corrcoef(torch.stack([oracle.flatten(), real.flatten()]))[0, 1].item()
    assert correlation == pytest.approx(math.sqrt(last * variance / (last * variance + 1 - last)), abs=0.02)


def test_brightness_is_compared_by_its_law_and_by_pairs() -> None:
    random = np.random.default_rng(0)
    drawn, real = random.normal(0.5, 0.1, 51), random.normal(0.4, 0.2, 51)
    found = brightness_measures(torch.from_numpy(drawn), torch.from_numpy(real))
    assert found["distance"].item() == pytest.approx(wasserstein_distance(drawn, real))
    assert found["deviation"].item() == pytest.approx(drawn.std())
    assert found["deviation_of_data"].item() == pytest.approx(real.std())
    assert found["correlation"].item() == pytest.approx(np.corrcoef(drawn, real)[0, 1])
    images = torch.rand(3, 2, 4, 5)
    torch.testing.assert_close(brightness(images), images.double().mean(dim=(1, 2, 3)))


def test_samples_are_tabulated_in_groups_from_dark_to_bright_real_images() -> None:
    """There are twenty images, two per group; each sample is half as bright as its image."""
    real = torch.linspace(0, 0.95, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    columns = brightness_table(real / 2, real).columns
    expected = np.arange(0.025, 1, 0.1)
    np.testing.assert_allclose(columns["brightness of real images"], expected, rtol=1e-5)
    np.testing.assert_allclose(columns["brightness of samples"], expected / 2, rtol=1e-5)
