"""Hunyuan-DiT matches plain diffusers for texts, latents and a saved folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanDiT2DModel, HunyuanDiTPipeline
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.guidance import guided
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.text_to_image import Weights
from tests.backbones.diffusion.family_checks import (
    assert_a_step_equals,
    assert_cached_equals_computed,
    exported,
    train_on_one_image,
)


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_generates_what_diffusers_alone_generates(hunyuan_dit: Path) -> None:
    model = HunyuanDiT(str(hunyuan_dit))
    alone: Any = HunyuanDiTPipeline.from_pretrained(hunyuan_dit)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)  # the scheduler draws random numbers

    given = {"latents": noise(), "output_type": "pt", "height": 64, "width": 64, "use_resolution_binning": False}
    expected = alone(["a cat", "dog"], generator=generator(), **given, **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    found = model.generate(prompts, noise(), generator=generator(), **options)
    torch.testing.assert_close(found, expected)
    assert model.state_dict() == {}  # not even the tied weights of the second encoder
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
    model = HunyuanDiT(str(hunyuan_dit), weights=Weights(dtype="bfloat16"))
    prompts = model.encode_prompts(["a"])
    assert prompts.embedding.dtype == torch.bfloat16
    assert model(noise(1), torch.tensor([5]), prompts).dtype == torch.float32
    assert model.generate(prompts, noise(1), num_inference_steps=1).dtype == torch.float32
    model = HunyuanDiT(str(hunyuan_dit)).double()
    assert model(noise(1).double(), torch.tensor([5]), model.encode_prompts(["a"])).dtype == torch.float64


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(hunyuan_dit: Path) -> None:
    """The transformer's additional arguments are those that are recorded while the pipeline runs."""

    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        called: dict[str, Any] = {}
        hook = alone.transformer.register_forward_pre_hook(
            lambda network, args, kwargs: called.update(kwargs), with_kwargs=True
        )
        options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
        alone(captions, height=64, width=64, use_resolution_binning=False, **options)
        hook.remove()
        torch.manual_seed(5)
        draw, e, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.randint(1000, (3,))
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = (posterior.mean + posterior.std * draw) * 0.13025
        abar = alone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        output = alone.transformer(abar.sqrt() * clean + (1 - abar).sqrt() * e, t.float(), **called)[0]
        ratio = (abar / (1 - abar)).flatten()
        error = output.chunk(2, dim=1)[0] - (abar.sqrt() * e - (1 - abar).sqrt() * clean)
        return (ratio.clamp(max=5) / (ratio + 1) * error.square().mean(dim=(1, 2, 3))).mean()

    alone = HunyuanDiTPipeline.from_pretrained(hunyuan_dit)
    assert_a_step_equals(HunyuanDiT(str(hunyuan_dit), tuning="full"), alone, 64, expected)


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them_merged(
    hunyuan_dit: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = HunyuanDiT(str(hunyuan_dit), tuning="lora", adapters=Adapters(rank=2))
    train_on_one_image(model, 64)
    transformer = HunyuanDiT2DModel.from_pretrained(exported(model, tmp_path) / "transformer")
    alone: Any = HunyuanDiTPipeline.from_pretrained(hunyuan_dit, transformer=transformer)
    given = {"latents": noise(), "output_type": "pt", "height": 64, "width": 64, "use_resolution_binning": False}
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    drawn = alone(["a cat", "dog"], generator=torch.Generator().manual_seed(1), **given, **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    found = model.generate(prompts, noise(), generator=torch.Generator().manual_seed(1), **options)
    torch.testing.assert_close(found, drawn, atol=1e-5, rtol=0)


def test_what_is_cached_equals_what_is_computed(hunyuan_dit: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(HunyuanDiT(str(hunyuan_dit), tuning="lora"), tmp_path, 64)


def test_hunyuan_dit_has_1_5_billion_parameters() -> None:
    """The sizes are those of the config of version 1.2 on the Hub."""
    with torch.device("meta"):
        network = HunyuanDiT2DModel(
            cross_attention_dim=1024, cross_attention_dim_t5=2048, hidden_size=1408, learn_sigma=True, mlp_ratio=4.3637,
            norm_type="layer_norm", num_layers=40, patch_size=2, sample_size=128, in_channels=4,
            attention_head_dim=88, num_attention_heads=16, pooled_projection_dim=1024,
            use_style_cond_and_image_meta_size=False,
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_499_952_032


def test_a_pipeline_of_another_kind_is_refused(xl: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks transformer; its model_index.json has:"):
        HunyuanDiT(str(xl))
