"""Qwen-Image matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.qwen_image import QwenImage
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

GIVEN: dict[str, Any] = {"height": 32, "width": 32, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
MEAN, DEVIATION = (torch.tensor(v).view(1, 4, 1, 1) for v in ([-0.7, 0.1, 0.9, 0.0], [2.8, 1.4, 0.7, 1.0]))


def packed(latent: Tensor) -> Tensor:
    """Pack 2 x 2 patches in row-major order; in a patch, the four pixels of a channel are adjacent."""
    return torch.nn.functional.unfold(latent, 2, stride=2).transpose(1, 2)


def drawn_by_diffusers(alone: Any, latent: Tensor) -> Tensor:
    options = {"num_inference_steps": 2, "true_cfg_scale": 2.0, "negative_prompt": ["", ""]}
    return alone(CAPTIONS[:2], latents=packed(latent), **GIVEN, **options).images


def test_it_generates_what_diffusers_alone_generates(qwen_image: Path) -> None:
    """The model pads prompts to 512 tokens; because of the mask, the padding has no effect."""
    model = QwenImage(str(qwen_image))
    expected = drawn_by_diffusers(QwenImagePipeline.from_pretrained(qwen_image), noise(model, 2, 32))
    prompts = model.encode_prompts(CAPTIONS[:2])
    found = model.generate(prompts, noise(model, 2, 32), **STEPS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert prompts.embedding.shape == (2, 512, 16)
    assert prompts.mask is not None
    lengths = prompts.mask.sum(dim=1)
    assert lengths[0] == lengths[1] + 1
    assert (model.image_size, model.size_multiple, model.prediction) == (512, 8, "flow")
    assert model.latent_shape(3, 32, 64) == (3, 4, 8, 16)
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_is_eulers(qwen_image: Path) -> None:
    model = QwenImage(str(qwen_image))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), **GIVEN, "true_cfg_scale": 1.0, "output_type": "latent"}
    found = model.pipeline(**given, latents=packed(noise(model, 2, 32)), num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(model, 2, 32), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, packed(noise(model, 2, 32) - velocity))


def test_latents_are_normalised_by_channel(qwen_image: Path) -> None:
    model = QwenImage(str(qwen_image))
    image, draw = torch.rand(2, 3, 32, 32), noise(model, 2, 32)
    posterior = model.pipeline.vae.encode((2 * image - 1)[:, :, None]).latent_dist
    expected = ((posterior.mean + posterior.std * draw[:, :, None])[:, :, 0] - MEAN) / DEVIATION
    torch.testing.assert_close(model.encode(image, draw), expected)
    decoded = model.pipeline.vae.decode((expected * DEVIATION + MEAN)[:, :, None]).sample[:, :, 0]
    torch.testing.assert_close(model.decode(expected), (decoded + 1) / 2)


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(qwen_image: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
        u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        shift = math.exp(calculate_shift(16, max_shift=0.9))
        t = shift * u / (1 + (shift - 1) * u)
        with torch.no_grad():
            posterior = alone.vae.encode((2 * image - 1)[:, :, None]).latent_dist
            clean = (posterior.mean[:, :, 0] + posterior.std[:, :, 0] * draw - MEAN) / DEVIATION
            embedding, mask = alone.encode_prompt(captions)
        level = t.view(-1, 1, 1, 1)
        velocity = alone.transformer(
            hidden_states=packed((1 - level) * clean + level * e), timestep=t, guidance=None,
            encoder_hidden_states_mask=mask, encoder_hidden_states=embedding, img_shapes=[[(1, 4, 4)]] * 3,
            attention_kwargs={}, return_dict=False,
        )[0]  # fmt: skip
        return (velocity - packed(e - clean)).square().mean()

    alone = QwenImagePipeline.from_pretrained(qwen_image)
    model = QwenImage(str(qwen_image), tuning="full")
    assert_a_step_equals(model, alone, 32, expected, flow=FlowMatching())


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(qwen_image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = QwenImage(str(qwen_image), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 32), **STEPS)
    train_on_one_image(model, 32, steps=15)
    alone: Any = QwenImagePipeline.from_pretrained(qwen_image)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(model, 2, 32), **STEPS)
    torch.testing.assert_close(found, drawn_by_diffusers(alone, noise(model, 2, 32)), atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(qwen_image: Path) -> None:
    assert_half_precision_is_inside(QwenImage, qwen_image, 32)


def test_what_is_cached_equals_what_is_computed(qwen_image: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(QwenImage(str(qwen_image), tuning="lora"), tmp_path, 32)


def test_qwen_image_has_twenty_billion_parameters_and_takes_a_step_on_the_meta_device() -> None:
    with torch.device("meta"):
        network: Any = QwenImageTransformer2DModel()
        latent, t, embedding = torch.empty(1, 4096, 64), torch.empty(1), torch.empty(1, 512, 3584)
        mask = torch.empty(1, 512, dtype=torch.bool)
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_430_401_088
    network(latent, embedding, mask, t, [[(1, 64, 64)]]).sample.mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert all(name.startswith("transformer_blocks.59.") and ("txt" in name or "add" in name) for name in without)
