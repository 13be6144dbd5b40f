"""PixArt-Sigma matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from tests.backbones.diffusion.family_checks import (
    CAPTIONS,
    assert_a_step_equals,
    assert_cached_equals_computed,
    assert_half_precision_is_inside,
    exported,
    noise,
    train_on_one_image,
)
from tests.tiny_pipelines import save_pixart_sigma

GIVEN: dict[str, Any] = {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False}
STEPS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.mark.parametrize("transformer_class", ["PixArtTransformer2DModel", "Transformer2DModel"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_generates_what_diffusers_alone_generates(transformer_class: str, tmp_path: Path) -> None:
    folder = save_pixart_sigma(tmp_path, transformer_class)
    model = PixArtSigma(str(folder))
    alone: Any = PixArtSigmaPipeline.from_pretrained(folder)
    expected = alone(CAPTIONS[:2], latents=noise(model), output_type="pt", **GIVEN, **STEPS).images
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(model), **STEPS), expected)
    assert isinstance(model.network, PixArtTransformer2DModel)
    assert (model.image_size, model.size_multiple, model.prediction) == (16, 4, "epsilon")
    assert prompts.mask is not None
    assert prompts.mask.sum(dim=1).tolist() == [6, 5]
    assert model.state_dict() == {}


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


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(pixart_sigma: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.randint(1000, (3,))
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = (posterior.mean + posterior.std * draw) * 0.13025
            embedding, mask, _, _ = alone.encode_prompt(captions, False)
        abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[t].view(-1, 1, 1, 1)
        output = alone.transformer(
            abar.sqrt() * clean + (1 - abar).sqrt() * e, encoder_hidden_states=embedding, encoder_attention_mask=mask,
            timestep=t, added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
        )[0]  # fmt: skip
        predicted = output.chunk(2, dim=1)[0]
        ratio = (abar / (1 - abar)).flatten()
        return (ratio.clamp(max=5) / ratio * (predicted - e).square().mean(dim=(1, 2, 3))).mean()

    alone = PixArtSigmaPipeline.from_pretrained(pixart_sigma)
    assert_a_step_equals(PixArtSigma(str(pixart_sigma), tuning="full"), alone, 16, expected)


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them_merged(
    pixart_sigma: Path, tmp_path: Path
) -> None:
    """The pipeline of PixArt-Sigma has no `load_lora_weights`, so the adapters are merged."""
    torch.manual_seed(0)
    model = PixArtSigma(str(pixart_sigma), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(model), **STEPS)
    train_on_one_image(model, 16)
    folder = exported(model, tmp_path)
    transformer = PixArtTransformer2DModel.from_pretrained(folder / "transformer")
    alone: Any = PixArtSigmaPipeline.from_pretrained(pixart_sigma, transformer=transformer)
    expected = alone(CAPTIONS[:2], latents=noise(model), output_type="pt", **GIVEN, **STEPS).images
    found = model.generate(prompts, noise(model), **STEPS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_a_whole_tuned_pipeline_is_loaded_by_diffusers_alone(pixart_sigma: Path, tmp_path: Path) -> None:
    model = PixArtSigma(str(pixart_sigma), tuning="full").eval()
    with torch.no_grad():
        model.network.proj_out.bias.add_(0.5)
    alone: Any = PixArtSigmaPipeline.from_pretrained(exported(model, tmp_path))
    expected = alone(CAPTIONS[:2], latents=noise(model), output_type="pt", **GIVEN, **STEPS).images
    found = model.generate(model.encode_prompts(CAPTIONS[:2]), noise(model), **STEPS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(pixart_sigma: Path) -> None:
    assert_half_precision_is_inside(PixArtSigma, pixart_sigma, 16)


def test_what_is_cached_equals_what_is_computed(pixart_sigma: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(PixArtSigma(str(pixart_sigma), tuning="lora"), tmp_path, 16)


def test_sigma_at_1024_has_six_hundred_million_parameters_and_takes_a_step_on_the_meta_device() -> None:
    """The sizes are those of the published config on the Hub; the paper states 0.6 billion parameters."""
    with torch.device("meta"):
        network: Any = PixArtTransformer2DModel(
            caption_channels=4096, interpolation_scale=2, use_additional_conditions=False
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == 610_856_096
    latent, t = torch.empty(2, 4, 128, 128, device="meta"), torch.empty(2, device="meta")
    embedding, mask = torch.empty(2, 300, 4096, device="meta"), torch.empty(2, 300, device="meta")
    output = network(latent, embedding, t, {}, encoder_attention_mask=mask).sample
    output[:, :4].mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
