"""PixArt-Sigma matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtSigmaPipeline

from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from tests.backbones.diffusion.family_checks import CAPTIONS, FAMILIES, exported, noise


def test_a_step_of_the_sampler_is_the_schedulers(pixart_sigma: Path) -> None:
    model = PixArtSigma(str(pixart_sigma))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), "guidance_scale": 1.0, "output_type": "latent"}
    pipeline: Any = model.pipeline
    found = pipeline(**given, latents=noise(model), height=16, width=16, num_inference_steps=1).images
    fresh = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    fresh.set_timesteps(1)
    with torch.no_grad():
        e = model(noise(model), fresh.timesteps[0], prompts)
    torch.testing.assert_close(found, fresh.step(e, fresh.timesteps[0], noise(model)).prev_sample)


def test_a_whole_tuned_pipeline_is_loaded_by_diffusers_alone(pixart_sigma: Path, tmp_path: Path) -> None:
    model = PixArtSigma(str(pixart_sigma), tuning="full").eval()
    with torch.no_grad():
        model.network.proj_out.bias.add_(0.5)
    alone = PixArtSigmaPipeline.from_pretrained(exported(model, tmp_path))
    found = model.generate(model.encode_prompts(CAPTIONS[:2]), noise(model), 2, 2.0)
    torch.testing.assert_close(found, FAMILIES["pixart_sigma"].images(alone, noise(model)), atol=1e-5, rtol=0)
