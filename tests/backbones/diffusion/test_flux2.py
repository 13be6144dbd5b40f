"""FLUX.2 matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.flux2 import Flux2
from lightning_modules.diffusion.finetuning.objectives import FlowMatching
from lightning_modules.diffusion.golden_noise.redenoising import flow_levels
from tests.backbones.diffusion.family_checks import (
    CAPTIONS,
    assert_a_step_equals,
    assert_cached_equals_computed,
    assert_half_precision_is_inside,
    exported,
    noise,
    train_on_one_image,
)

GIVEN: dict[str, Any] = {"height": 16, "width": 16, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
PIPELINES: dict[str, Any] = {"flux2": Flux2Pipeline, "flux2_klein": Flux2KleinPipeline}


def patches(latent: Tensor) -> Tensor:
    """Arrange the four pixels of each 2 x 2 patch as channels, and return `[B, 4 c, h / 2, w / 2]`."""
    return torch.nn.functional.pixel_unshuffle(latent, 2)


@pytest.mark.parametrize("name", PIPELINES)
def test_it_generates_what_diffusers_alone_generates(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    model = Flux2(str(folder))
    alone = PIPELINES[name].from_pretrained(folder)
    expected = alone(prompt=CAPTIONS[:2], latents=noise(model, 2, 16), **GIVEN, **STEPS).images
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model, 2, 16), **STEPS), expected)
    assert prompts.embedding.shape == (2, 512, 24)
    assert not torch.equal(*prompts.embedding)
    assert (model.image_size, model.size_multiple, model.prediction) == (256, 4, "flow")
    assert Flux2.size_multiple_before_loading(str(folder)) == 4
    assert model.latent_shape(3, 16, 32) == (3, 16, 4, 8)
    assert model.takes_negative_prompts == (name == "flux2_klein")
    assert model.state_dict() == {}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_step_of_the_sampler_is_eulers(name: str, request: pytest.FixtureRequest) -> None:
    model = Flux2(str(request.getfixturevalue(name)), training_guidance=1.0)
    prompts = model.encode_prompts(CAPTIONS[:2])
    found: list[Tensor] = []

    def keep(pipe: Any, step: int, time: Any, now: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(now["latents"])
        return now

    options = {"guidance_scale": 1.0, "num_inference_steps": 3, "callback_on_step_end": keep}
    model.pipeline(**model.for_pipeline(prompts, prompts), **GIVEN, **options, latents=noise(model, 2, 16))
    levels = flow_levels(model, model.latent_shape(1, 16, 16)[1:], 3)
    torch.testing.assert_close(levels, model.scheduler.sigmas.double().numpy(), atol=1e-6, rtol=0)
    with torch.no_grad():
        velocity = model(noise(model, 2, 16), torch.tensor(1000.0), prompts)
    expected = noise(model, 2, 16) + (levels[1] - levels[0]) * velocity
    torch.testing.assert_close(found[0], expected.flatten(2).transpose(1, 2))


def test_latents_are_normalised_by_channel_of_a_patch(flux2: Path) -> None:
    model = Flux2(str(flux2))
    image, draw = torch.rand(2, 3, 16, 16), noise(model, 2, 16)
    vae = model.pipeline.vae
    torch.testing.assert_close(model.encode(image), model.pipeline._encode_vae_image(2 * image - 1, None))
    posterior = vae.encode(2 * image - 1).latent_dist
    z = vae.bn(patches(posterior.mean) + patches(posterior.std) * draw)  # in evaluation mode
    torch.testing.assert_close(model.encode(image, draw), z)
    torch.testing.assert_close(model.decode(model.encode(image)), (vae.decode(posterior.mean).sample + 1) / 2)


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(flux2: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4)
        u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        shift = math.exp(compute_empirical_mu(16, 50))
        t = shift * u / (1 + (shift - 1) * u)
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = patches(posterior.mean) + patches(posterior.std) * draw
            mean, variance = (value.view(-1, 1, 1) for value in (alone.vae.bn.running_mean, alone.vae.bn.running_var))
            clean = (clean - mean) / torch.sqrt(variance + alone.vae.config.batch_norm_eps)
            embedding, text_ids = alone.encode_prompt(captions)
        level = t.view(-1, 1, 1, 1)
        noisy, ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, "cpu", None, (1 - level) * clean + level * e)
        velocity = alone.transformer(
            hidden_states=noisy, timestep=t, guidance=torch.full([3], 1.5), encoder_hidden_states=embedding,
            txt_ids=text_ids, img_ids=ids, joint_attention_kwargs=None, return_dict=False,
        )[0]  # fmt: skip
        return (velocity - alone._pack_latents(e - clean)).square().mean()

    model = Flux2(str(flux2), tuning="full", training_guidance=1.5)
    assert_a_step_equals(model, Flux2Pipeline.from_pretrained(flux2), 16, expected, flow=FlowMatching())


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(flux2_klein: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Flux2(str(flux2_klein), tuning="lora", adapters=Adapters(rank=2))
    adapted = {name.partition(".lora_")[0] for name, _ in model.network.named_parameters() if "lora_" in name}
    assert {name.partition(".attn.")[2] for name in adapted if name.startswith("single")} == {
        "to_qkv_mlp_proj", "to_out"
    }  # fmt: skip
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 16), **STEPS)
    train_on_one_image(model, 16, steps=15)
    alone: Any = Flux2KleinPipeline.from_pretrained(flux2_klein)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(model, 2, 16), **STEPS)
    expected = alone(prompt=CAPTIONS[:2], latents=noise(model, 2, 16), **GIVEN, **STEPS).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(flux2_klein: Path) -> None:
    assert_half_precision_is_inside(Flux2, flux2_klein, 16)


def test_what_is_cached_equals_what_is_computed(flux2_klein: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(Flux2(str(flux2_klein), tuning="lora"), tmp_path, 16)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({}, 32_223_281_152),
        ({"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
          "guidance_embeds": False}, 3_875_544_576),
    ],
)  # fmt: skip
def test_a_full_size_transformer_takes_a_step_on_the_meta_device(config: dict[str, Any], parameters: int) -> None:
    """The diffusers defaults are the sizes of FLUX.2-dev; the other sizes are those of FLUX.2-klein-base-4B."""
    with torch.device("meta"):
        network: Any = Flux2Transformer2DModel(**config)
        ids = [torch.empty(length, 4) for length in (512, 4096)]
        output = network(
            torch.empty(1, 4096, 128), torch.empty(1, 512, network.config.joint_attention_dim), torch.empty(1),
            txt_ids=ids[0], img_ids=ids[1], guidance=torch.empty(1) if network.config.guidance_embeds else None,
        ).sample  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    output.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
