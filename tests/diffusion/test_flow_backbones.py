"""The noise methods on flow-matching pipelines: each works, or is rejected with a reason in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.diffusion.dps import DPS
from lightning_modules.diffusion.golden_noise import GoldenNoise
from lightning_modules.diffusion.golden_noise.redenoising import flow_levels
from lightning_modules.diffusion.noise_diffusion import NoiseDiffusion
from lightning_modules.diffusion.one_more_step import OneMoreStep
from lightning_modules.diffusion.pigdm import PiGDM
from lightning_modules.diffusion.red_diff import REDDiff
from lightning_modules.robustness.diffusion_guard.inpainting import StableDiffusionInpainter
from tests.diffusion.golden_noise.small import Identity

TEXTS = ["a cat", "dog"]


def randn(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("official_offset", [False, True])
def test_golden_noise_is_a_guided_euler_step_and_one_back(official_offset: bool, stable_diffusion_3: Path) -> None:
    """Compare with the transformer calls that the pipeline would make, at the times that a shift of 3 gives."""
    model = text_to_image_pipeline(str(stable_diffusion_3)).double()
    noise = randn().double()
    method = GoldenNoise(Identity(), model, pair_guidance=40.0, official_offset=official_offset)
    found = method.better(noise, TEXTS)
    alone: Any = StableDiffusion3Pipeline.from_pretrained(stable_diffusion_3).to(torch.float64)

    @torch.no_grad()
    def velocity(z: Tensor, guidance: float) -> Tensor:
        outputs = []
        for texts in (TEXTS, ["", ""]):
            embedding, _, pooled, _ = alone.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
            time = torch.tensor([1000.0, 1000.0])
            outputs.append(alone.transformer(z, embedding, pooled, time, return_dict=False)[0])
        return outputs[1] + guidance * (outputs[0] - outputs[1])

    first, second = (3 * u / (1 + 2 * u) for u in (0.9, 0.8))
    moved = noise + (first - 1) * velocity(noise, 40.0)
    back = first - second if official_offset else 1 - first
    torch.testing.assert_close(found, moved + back * velocity(moved, 1.0), rtol=0, atol=1e-7)
    assert (found - noise).abs().max() > 1e-3
    assert method.result_settings()["levels"] == pytest.approx([0, 1, first, first, second if official_offset else 1])


def test_the_times_of_golden_noise_are_those_of_sampling(flux: Path) -> None:
    model = Flux(str(flux))
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10), mu=calculate_shift(16))
    np.testing.assert_allclose(flow_levels(model, (4, 8, 8), 10), scheduler.sigmas.numpy(), atol=1e-6)


@pytest.mark.parametrize("family", ["stable_diffusion_3", "flux"])
def test_golden_noise_gives_an_unmodified_pipeline_its_latents(family: str, request: pytest.FixtureRequest) -> None:
    model = text_to_image_pipeline(str(request.getfixturevalue(family)))
    method = GoldenNoise(Identity(), model, start="redenoised", sampling=Sampling(2), prompts=TEXTS)
    sample = method.sample(2, torch.Generator().manual_seed(0))
    assert sample.shape == (2, 3, 16, 16)
    plain = method.images(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), TEXTS)
    assert (sample - plain).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["stable_diffusion_3", "sana"])
def test_one_more_step_and_noise_diffusion_say_why_they_do_not_take_flow_matching(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = text_to_image_pipeline(str(request.getfixturevalue(family)))
    name = f"{type(model.scheduler).__name__} is a scheduler for flow matching"
    pure = "OneMoreStep corrects schedules that do not reach pure noise, which those of flow matching do"
    with pytest.raises(ValueError, match=f"model: {pure}, but {name}"):
        OneMoreStep(nn.Identity(), model)
    levels = "NoiseDiffusion mixes noise at levels abar of a diffusion process"
    with pytest.raises(ValueError, match=f"model: {levels}, but {name}"):
        NoiseDiffusion(model)


@pytest.mark.parametrize("method", [REDDiff, DPS, PiGDM])
def test_restoration_says_why_it_does_not_take_latent_models(method: Any, stable_diffusion_3: Path) -> None:
    model = text_to_image_pipeline(str(stable_diffusion_3))
    reason = r"needs a network that is called with images in \[-1, 1\] and without a prompt, but StableDiffusion3"
    with pytest.raises(ValueError, match=f"network: {method.__name__} {reason}"):
        method(model, DDIMScheduler())


def test_diffusion_guard_attacks_inpainting_pipelines_with_a_u_net_only(stable_diffusion_3: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks unet; its model_index\.json has: .*transformer"):
        StableDiffusionInpainter(str(stable_diffusion_3))
