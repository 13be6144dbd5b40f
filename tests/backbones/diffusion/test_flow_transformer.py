"""Flow-matching transformers match plain diffusers, and are saved in the diffusers format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.sde.discrete import scheduler_levels, scheduler_prediction
from tests.diffusion.finetuning.models import captioned
from tests.tiny_pipelines import save_stable_diffusion_3


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", [{}, {"t5": False}, {"dual": True}])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_generates_what_diffusers_alone_generates(
    variant: dict[str, bool], guidance_scale: float, tmp_path: Path
) -> None:
    folder = save_stable_diffusion_3(tmp_path, **variant)
    model = StableDiffusion3(str(folder))
    absent: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None} if variant.get("t5") is False else {}
    alone: Any = StableDiffusion3Pipeline.from_pretrained(folder, **absent)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": guidance_scale}
    expected = alone(["a cat", "dog"], latents=noise(), output_type="pt", **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    torch.testing.assert_close(model.generate(prompts, noise(), **options), expected)
    assert model.latent_shape(3) == (3, 4, 8, 8)
    assert model.image_size == 16
    assert model.prediction == "flow"
    assert model.state_dict() == {}
    assert not torch.allclose(prompts.embedding[0], prompts.embedding[1])


def test_a_step_of_the_sampler_is_eulers(stable_diffusion_3: Path) -> None:
    """The first step leads from noise z at t = 1 to z + (t' - 1) v at time t'; a new scheduler has the same times."""
    model = StableDiffusion3(str(stable_diffusion_3))
    prompts = model.encode_prompts(["a cat", "dog"])
    found: list[Tensor] = []
    pipeline: Any = model.pipeline
    given = {**model.for_pipeline(prompts, model.empty_prompts(2)), "guidance_scale": 1.0, "output_type": "latent"}

    def keep(pipe: Any, step: int, time: Any, now: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(now["latents"])
        return now

    pipeline(**given, latents=noise(), height=16, width=16, num_inference_steps=2, callback_on_step_end=keep)
    levels = pipeline.scheduler.sigmas
    with torch.no_grad():
        velocity = model(noise(), torch.tensor(1000.0), prompts)
    fresh = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    fresh.set_timesteps(2)
    torch.testing.assert_close(found[0], fresh.step(velocity, fresh.timesteps[0], noise()).prev_sample)
    torch.testing.assert_close(found[0], noise() + (levels[1] - 1) * velocity)
    assert levels[0] == 1
    assert levels[2] == 0


def test_latents_are_shifted_and_scaled(stable_diffusion_3: Path) -> None:
    model = StableDiffusion3(str(stable_diffusion_3))
    image, draw = torch.rand(2, 3, 16, 16), noise()
    posterior = model.pipeline.vae.encode(2 * image - 1).latent_dist
    expected = 1.5305 * (posterior.mean + torch.exp(0.5 * posterior.logvar) * draw - 0.0609)
    torch.testing.assert_close(model.encode(image, draw), expected)
    decoded = model.pipeline.vae.decode(expected / 1.5305 + 0.0609).sample
    torch.testing.assert_close(model.decode(expected), (decoded + 1) / 2)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("dual", [False, True])
def test_diffusers_alone_loads_what_is_saved(tuning: Any, dual: bool, tmp_path: Path) -> None:
    folder = save_stable_diffusion_3(tmp_path, dual=dual)
    model = StableDiffusion3(str(folder), tuning=tuning, **({"adapters": Adapters(rank=2)} if tuning == "lora" else {}))
    prompts, t = model.encode_prompts(["a cat", "dog"]), torch.tensor([100.0, 900.0])
    before = model(noise(), t, prompts)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model, tmp_path / "tuned", writes=True)
    alone: Any = StableDiffusion3Pipeline.from_pretrained(folder if tuning == "lora" else tmp_path / "tuned")
    if tuning == "lora":
        alone.load_lora_weights(tmp_path / "tuned")
        assert [file.name for file in (tmp_path / "tuned").iterdir()] == ["pytorch_lora_weights.safetensors"]
        adapted = {
            name.rpartition(".lora_A")[0] for name, _ in alone.transformer.named_parameters() if "lora_A" in name
        }
        assert len(adapted) == 2 * 8 - 1  # the last block has no output for the text
    with torch.no_grad():
        expected = alone.transformer(
            noise(), timestep=t, encoder_hidden_states=prompts.embedding, pooled_projections=prompts.pooled
        ).sample
        found = model(noise(), t, prompts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_latents_and_captions_are_cached(stable_diffusion_3: Path, tmp_path: Path) -> None:
    network = StableDiffusion3(str(stable_diffusion_3))
    plain, data = captioned(tmp_path / "images"), captioned(tmp_path / "images")
    for one in (plain, data):
        one.setup("fit")
    cache_latents(network, data, str(tmp_path / "cache"), torch.device("cpu"))
    assert plain.train_set is not None
    assert data.train_set is not None
    request = next(iter(plain.evaluation_loader(plain.train_set).sampler))
    whole, cached = plain.train_set[request], data.train_set[request]
    torch.testing.assert_close(cached["moments"], network.moments(whole["image"].float() / 255), atol=1e-5, rtol=1e-5)
    prompts = network.encode_prompts(whole["caption"])
    torch.testing.assert_close(cached["embedding"], prompts.embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached["pooled"], prompts.pooled, atol=1e-5, rtol=1e-5)


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(stable_diffusion_3: Path) -> None:
    model = StableDiffusion3(str(stable_diffusion_3), weights=Weights(dtype="bfloat16"))
    prompts = model.encode_prompts(["a"])
    assert prompts.embedding.dtype == torch.bfloat16
    assert model(noise(1), torch.tensor([5.0]), prompts).dtype == torch.float32
    assert model.generate(prompts, noise(1), num_inference_steps=1).dtype == torch.float32
    model = StableDiffusion3(str(stable_diffusion_3)).double()
    assert model(noise(1).double(), torch.tensor([5.0]), model.encode_prompts(["a"])).dtype == torch.float64


def test_what_does_not_fit_is_refused(stable_diffusion_3: Path, hunyuan_dit: Path, xl: Path) -> None:
    for kind, folder, message in (
        (StableDiffusion3, xl, "lacks transformer; its model_index.json has:"),
        (
            StableDiffusion3,
            hunyuan_dit,
            "transformer of .* must be of class SD3Transformer2DModel, got HunyuanDiT2DMod",
        ),
        (TextToImage, stable_diffusion_3, "lacks unet; its model_index.json has:"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(str(folder))
    scheduler = StableDiffusion3(str(stable_diffusion_3)).scheduler
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod: its process is not"):
        scheduler_levels(scheduler)
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'flow'"):
        scheduler_prediction(scheduler)


def medium(device: str) -> Any:
    """Build the transformer of Stable Diffusion 3 Medium from the sizes of its config."""
    with torch.device(device):
        return SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            pos_embed_max_size=192,
        )  # fmt: skip


def test_stable_diffusion_3_medium_has_two_billion_parameters() -> None:
    """Including the position table, which is not trained, the transformer has 2.085 billion values."""
    network = medium("meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_028_328_000
    assert sum(value.numel() for value in network.state_dict().values()) == 2_028_328_000 + 192**2 * 1536
