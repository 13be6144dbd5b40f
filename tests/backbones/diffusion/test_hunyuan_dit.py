"""Hunyuan-DiT gives what diffusers alone gives, from texts, latents and a saved folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanDiTPipeline
from torch import Tensor

from lightning_modules.backbones.diffusion.guidance import guided
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_generates_what_diffusers_alone_generates(hunyuan_dit: Path) -> None:
    model = HunyuanDiT(str(hunyuan_dit))
    alone: Any = HunyuanDiTPipeline.from_pretrained(hunyuan_dit)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)  # its scheduler draws

    given = {"latents": noise(), "output_type": "pt", "height": 64, "width": 64, "use_resolution_binning": False}
    expected = alone(["a cat", "dog"], generator=generator(), **given, **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    found = model.generate(prompts, noise(), generator=generator(), **options)
    torch.testing.assert_close(found, expected)
    assert model.state_dict() == {}  # tied weights of the second encoder included
    assert model.latent_shape(3) == (3, 4, 8, 8)
    assert model.image_size == 64


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
    torch.testing.assert_close(guided(model, prompts, empty, 3.0)(noise(), time), told[0])
    assert not torch.allclose(model(noise(), time, prompts), model(noise(), time, empty))
    one = guided(model, prompts.rows([1]), empty.rows([1]), 3.0)(noise()[1:], time[1:])
    torch.testing.assert_close(one, told[0][1:], rtol=1e-4, atol=1e-5)


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(hunyuan_dit: Path) -> None:
    model = HunyuanDiT(str(hunyuan_dit), dtype="bfloat16")
    prompts = model.encode_prompts(["a"])
    assert prompts.embedding.dtype == torch.bfloat16
    assert model(noise(1), torch.tensor([5]), prompts).dtype == torch.float32
    assert model.generate(prompts, noise(1), num_inference_steps=1).dtype == torch.float32
    model = HunyuanDiT(str(hunyuan_dit)).double()
    assert model(noise(1).double(), torch.tensor([5]), model.encode_prompts(["a"])).dtype == torch.float64


def test_a_pipeline_of_another_kind_is_refused(xl: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks transformer; its model_index.json has:"):
        HunyuanDiT(str(xl))
