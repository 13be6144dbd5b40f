"""Z-Image and Lumina 2 match plain diffusers, and are trained with the inputs that their pipelines pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.z_image import Lumina2, ZImage
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

GIVEN: dict[str, Any] = {"height": 16, "width": 16, "output_type": "pt"}
SIDE = 32
"""Height and width of images for Lumina 2."""
LUMINA: dict[str, Any] = {"height": SIDE, "width": SIDE, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}


def drawn_by_diffusers(alone: Any, latent: Tensor) -> Tensor:
    """Generate images with diffusers; its guidance scale for Z-Image is that of this project minus 1."""
    return alone(CAPTIONS[:2], latents=latent, num_inference_steps=2, guidance_scale=1.0, **GIVEN).images


def test_it_generates_what_diffusers_alone_generates(z_image: Path) -> None:
    model = ZImage(str(z_image))
    expected = drawn_by_diffusers(ZImagePipeline.from_pretrained(z_image), noise(model, 2, 16))
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model, 2, 16), **STEPS), expected)
    assert prompts.embedding.shape == (2, 512, 16)
    assert prompts.mask is not None
    assert prompts.mask.sum(dim=1).tolist() == [10, 9]
    assert (model.image_size, model.size_multiple, model.prediction) == (1024, 4, "flow")
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_is_eulers(z_image: Path) -> None:
    """The step from noise at t = 1 to t = 0 adds -(e - z), independently of the network's sign and time conventions."""
    model = ZImage(str(z_image))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), **GIVEN, "guidance_scale": 0.0, "output_type": "latent"}
    found = model.pipeline(**given, latents=noise(model, 2, 16), num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(model, 2, 16), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, noise(model, 2, 16) - velocity)


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(z_image: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
        u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        t = 3 * u / (1 + 2 * u)
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = (posterior.mean + posterior.std * draw - 0.1159) * 0.3611
            embedding, _ = alone.encode_prompt(list(captions), do_classifier_free_guidance=False)
        level = t.view(-1, 1, 1, 1)
        noisy = ((1 - level) * clean + level * e).unsqueeze(2)
        output = alone.transformer(list(noisy.unbind(dim=0)), (1000 - 1000 * t) / 1000, embedding, return_dict=False)[0]
        velocity = -torch.stack(output).squeeze(2)
        return (velocity - (e - clean)).square().mean()

    alone = ZImagePipeline.from_pretrained(z_image)
    assert_a_step_equals(ZImage(str(z_image), tuning="full"), alone, 16, expected, flow=FlowMatching())


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(z_image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ZImage(str(z_image), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 16), **STEPS)
    train_on_one_image(model, 16)
    alone: Any = ZImagePipeline.from_pretrained(z_image)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(model, 2, 16), **STEPS)
    torch.testing.assert_close(found, drawn_by_diffusers(alone, noise(model, 2, 16)), atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(z_image: Path) -> None:
    assert_half_precision_is_inside(ZImage, z_image, 16)


def test_what_is_cached_equals_what_is_computed(z_image: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(ZImage(str(z_image), tuning="lora"), tmp_path, 16)


def test_z_image_has_six_billion_parameters_and_takes_a_step_on_the_meta_device() -> None:
    with torch.device("meta"):
        network: Any = ZImageTransformer2DModel()
        latents, embeddings = list(torch.empty(2, 16, 1, 128, 128)), [torch.empty(20, 2560), torch.empty(90, 2560)]
        output = network(latents, torch.empty(2), embeddings).sample
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_154_908_736
    torch.stack(output).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_lumina_2_generates_what_diffusers_alone_generates(lumina2: Path) -> None:
    model = Lumina2(str(lumina2))
    alone: Any = Lumina2Pipeline.from_pretrained(lumina2)
    expected = alone(CAPTIONS[:2], latents=noise(model, 2, SIDE), **LUMINA, **STEPS).images
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model, 2, SIDE), **STEPS), expected)
    assert prompts.embedding.shape == (2, 256, 8)
    assert prompts.mask is not None
    lengths = prompts.mask.sum(dim=1)
    assert lengths[0] == lengths[1] + 1
    assert (model.image_size, model.size_multiple, model.prediction) == (64, 16, "flow")
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_of_lumina_2_is_eulers(lumina2: Path) -> None:
    """The step from noise at t = 1 to t = 0 adds -(e - z), independently of the network's sign and time conventions."""
    model = Lumina2(str(lumina2))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), **LUMINA, "guidance_scale": 1.0, "output_type": "latent"}
    found = model.pipeline(**given, latents=noise(model, 2, SIDE), num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(model, 2, SIDE), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, noise(model, 2, SIDE) - velocity)


def test_a_step_of_lumina_2_is_that_of_calls_as_the_pipeline_makes_them(lumina2: Path) -> None:
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


def test_adapters_of_lumina_2_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(
    lumina2: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Lumina2(str(lumina2), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model, 2, SIDE), **STEPS)
    train_on_one_image(model, SIDE)
    alone: Any = Lumina2Pipeline.from_pretrained(lumina2)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(model, 2, SIDE), **STEPS)
    expected = alone(CAPTIONS[:2], latents=noise(model, 2, SIDE), **LUMINA, **STEPS).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_lumina_2_and_float64_where_it_is_asked_for(lumina2: Path) -> None:
    assert_half_precision_is_inside(Lumina2, lumina2, SIDE)


def test_what_is_cached_of_lumina_2_equals_what_is_computed(lumina2: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(Lumina2(str(lumina2), tuning="lora"), tmp_path, SIDE)


def test_lumina_2_has_2_6_billion_parameters_and_takes_a_step_on_the_meta_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published configuration differs from the diffusers defaults in the text width, which is 2304 for Gemma 2 2B.

    The network reads the text lengths on the host. Tensors on the meta device have no values, so this test replaces
    `Tensor.tolist` with a function that returns the length.
    """
    with torch.device("meta"):
        network: Any = Lumina2Transformer2DModel(cap_feat_dim=2304)
        latent, embedding, t = torch.empty(1, 16, 128, 128), torch.empty(1, 256, 2304), torch.empty(1)
        mask = torch.ones(1, 256, dtype=torch.bool)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_609_769_152
    monkeypatch.setattr(torch.Tensor, "tolist", lambda lengths: [256])
    network(latent, t, embedding, mask).sample.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
