"""Sana matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

from pathlib import Path
from typing import Any

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.sana import Sana
from lightning_modules.diffusion.finetuning.objectives import FlowMatching
from tests.backbones.diffusion.family_checks import (
    CAPTIONS,
    assert_a_step_equals,
    assert_cached_equals_computed,
    assert_half_precision_is_inside,
    exported,
    noise,
    train_on_one_image,
)

GIVEN: dict[str, Any] = {"height": 32, "width": 32, "use_resolution_binning": False, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}


def test_it_generates_what_diffusers_alone_generates(sana: Path) -> None:
    model = Sana(str(sana))
    alone: Any = SanaPipeline.from_pretrained(sana)
    expected = alone(CAPTIONS[:2], latents=noise(model), **GIVEN, **STEPS).images
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model), **STEPS), expected)
    assert prompts.embedding.shape == (2, 300, 8)
    assert (model.image_size, model.size_multiple, model.prediction) == (32, 32, "flow")
    assert model.latent_shape(3) == (3, 4, 8, 8)
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_is_eulers(sana: Path) -> None:
    """The solver has order two, but its first step has order one: z + (t' - t) v."""
    model = Sana(str(sana))
    prompts = model.encode_prompts(CAPTIONS[:2])
    found: list[Tensor] = []

    def keep(pipe: Any, step: int, time: Any, now: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(now["latents"])
        return now

    given = {**model.for_pipeline(prompts, prompts), **GIVEN, "output_type": "latent", "guidance_scale": 1.0}
    model.pipeline(**given, latents=noise(model), num_inference_steps=3, callback_on_step_end=keep)
    t, later = model.scheduler.sigmas[:2]
    with torch.no_grad():
        velocity = model(noise(model), model.scheduler.timesteps[0], prompts)
    torch.testing.assert_close(found[0], noise(model) + (later - t) * velocity, rtol=1e-4, atol=1e-4)
    assert t > 0.99


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(sana: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        torch.randn(3, 4, 8, 8)  # drawn for the autoencoder, and not used, because it is deterministic
        e, u = torch.randn(3, 4, 8, 8), torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        t = 3 * u / (1 + 2 * u)  # flow_shift is 3
        called: list[tuple[Tensor, Tensor]] = []
        step = alone.encode_prompt
        alone.encode_prompt = lambda *args, **kwargs: (called.append(step(*args, **kwargs)), called[-1])[1]
        alone(captions, num_inference_steps=1, guidance_scale=1.0, **{**GIVEN, "output_type": "latent"})
        embedding, mask = called[0][:2]
        with torch.no_grad():
            clean = alone.vae.encode(2 * image - 1).latent * 0.41407
        level = t.view(-1, 1, 1, 1)
        velocity = alone.transformer(
            (1 - level) * clean + level * e, encoder_hidden_states=embedding, encoder_attention_mask=mask,
            timestep=1000 * t * 0.5, return_dict=False,
        )[0]  # fmt: skip
        return (velocity - (e - clean)).square().mean()

    alone = SanaPipeline.from_pretrained(sana)
    assert_a_step_equals(Sana(str(sana), tuning="full"), alone, 32, expected, flow=FlowMatching())


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(sana: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sana(str(sana), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model), **STEPS)
    train_on_one_image(model, 32)
    alone: Any = SanaPipeline.from_pretrained(sana)
    alone.load_lora_weights(exported(model, tmp_path))
    expected = alone(CAPTIONS[:2], latents=noise(model), **GIVEN, **STEPS).images
    found = model.generate(prompts, noise(model), **STEPS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(sana: Path) -> None:
    assert_half_precision_is_inside(Sana, sana, 32)


def test_what_is_cached_equals_what_is_computed(sana: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(Sana(str(sana), tuning="lora"), tmp_path, 32)


def test_sana_has_1_6_billion_parameters_and_takes_a_step_on_the_meta_device() -> None:
    """The name of the model, Sana_1600M_1024px, states the parameter count; its config has the diffusers defaults."""
    with torch.device("meta"):
        network: Any = SanaTransformer2DModel()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_604_462_752
    latent, t = torch.empty(2, 32, 32, 32, device="meta"), torch.empty(2, device="meta")
    embedding, mask = torch.empty(2, 300, 2304, device="meta"), torch.empty(2, 300, device="meta")
    network(latent, embedding, t, encoder_attention_mask=mask).sample.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
