"""Hunyuan-DiT matches plain diffusers for texts, latents and a saved folder."""

from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiTPipeline
from torch import Tensor

from lightning_modules.backbones.diffusion.guidance import guided_model
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_prediction_is_that_of_the_pipeline_with_guidance(hunyuan_dit: Path) -> None:
    model = HunyuanDiT(str(hunyuan_dit))
    told: list[Tensor] = []
    alone: Any = HunyuanDiTPipeline.from_pretrained(hunyuan_dit)
    step = alone.scheduler.step
    alone.scheduler.step = lambda output, *rest, **more: told.append(output) or step(output, *rest, **more)
    given = {"latents": noise(), "output_type": "latent", "height": 64, "width": 64, "use_resolution_binning": False}
    alone(["a cat", "dog"], num_inference_steps=1, guidance_scale=3.0, **given)
    prompts, empty = model.encode_prompts(["a cat", "dog"]), model.empty_prompts(2)
    time = alone.scheduler.timesteps[:1].expand(2)
    torch.testing.assert_close(guided_model(model, prompts, empty, 3.0)(noise(), time), told[0])
    assert not torch.allclose(model(noise(), time, prompts), model(noise(), time, empty))
    one = guided_model(model, prompts.rows([1]), empty.rows([1]), 3.0)(noise()[1:], time[1:])
    torch.testing.assert_close(one, told[0][1:], rtol=1e-4, atol=1e-5)
