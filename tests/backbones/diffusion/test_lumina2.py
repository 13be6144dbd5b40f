"""Lumina 2 gives what diffusers alone gives, is trained as its pipeline calls it, and is saved for it to load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor

from lightning_modules.backbones.diffusion.lumina2 import Lumina2
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

SIDE = 32
GIVEN: dict[str, Any] = {"height": SIDE, "width": SIDE, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}


def test_it_generates_what_diffusers_alone_generates(lumina2: Path) -> None:
    model = Lumina2(str(lumina2))
    alone: Any = Lumina2Pipeline.from_pretrained(lumina2)
    expected = alone(CAPTIONS[:2], latents=noise(model, 2, SIDE), **GIVEN, **STEPS).images
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model, 2, SIDE), **STEPS), expected)
    assert prompts.embedding.shape == (2, 256, 8)
    assert prompts.mask is not None
    lengths = prompts.mask.sum(dim=1)
    assert lengths[0] == lengths[1] + 1
    assert (model.image_size, model.size_multiple, model.prediction) == (64, 16, "flow")
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_is_eulers(lumina2: Path) -> None:
    """From noise, at t = 1, to t = 0 it goes by -(e - z), whatever the network's own sign and time are."""
    model = Lumina2(str(lumina2))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), **GIVEN, "guidance_scale": 1.0, "output_type": "latent"}
    found = model.pipeline(**given, latents=noise(model, 2, SIDE), num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(model, 2, SIDE), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, noise(model, 2, SIDE) - velocity)


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(lumina2: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
        u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        t = 6 * u / (1 + 5 * u)
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = (posterior.mean + posterior.std * draw - 0.1159) * 0.3611
            embedding, mask, _, _ = alone.encode_prompt(captions, do_classifier_free_guidance=False)
        level = t.view(-1, 1, 1, 1)
        output = alone.transformer(
            hidden_states=(1 - level) * clean + level * e, timestep=1 - 1000 * t / 1000,
            encoder_hidden_states=embedding, encoder_attention_mask=mask, attention_kwargs=None, return_dict=False,
        )[0]  # fmt: skip
        return (-output - (e - clean)).square().mean()

    alone = Lumina2Pipeline.from_pretrained(lumina2)
    assert_a_step_equals(Lumina2(str(lumina2), tuning="full"), alone, SIDE, expected, flow=FlowMatching())


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(lumina2: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Lumina2(str(lumina2), tuning="lora", lora_rank=2)
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model, 2, SIDE), **STEPS)
    train_on_one_image(model, SIDE)
    alone: Any = Lumina2Pipeline.from_pretrained(lumina2)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(model, 2, SIDE), **STEPS)
    expected = alone(CAPTIONS[:2], latents=noise(model, 2, SIDE), **GIVEN, **STEPS).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(lumina2: Path) -> None:
    assert_half_precision_is_inside(Lumina2, lumina2, SIDE)


def test_what_is_cached_equals_what_is_computed(lumina2: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(Lumina2(str(lumina2), tuning="lora"), tmp_path, SIDE)


def test_lumina_2_has_2_6_billion_parameters_and_takes_a_step_on_the_meta_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published configuration differs from the defaults of diffusers by the width of Gemma 2 2B, 2304.

    The network reads the lengths of texts on the host; on the meta device, they have no values and are given.
    """
    with torch.device("meta"):
        network: Any = Lumina2Transformer2DModel(cap_feat_dim=2304)
        latent, embedding, t = torch.empty(1, 16, 128, 128), torch.empty(1, 256, 2304), torch.empty(1)
        mask = torch.ones(1, 256, dtype=torch.bool)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_609_769_152
    monkeypatch.setattr(torch.Tensor, "tolist", lambda lengths: [256])
    network(latent, t, embedding, mask).sample.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
