"""Flow-matching transformers match plain diffusers, and are saved in the diffusers format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.sde.discrete import scheduler_levels, scheduler_prediction
from tests.tiny_pipelines import save_stable_diffusion_3


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("variant", "guidance_scale"), [({}, 1.0), ({"t5": False}, 3.0), ({"dual": True}, 3.0)])
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


def test_latents_are_shifted_and_scaled(stable_diffusion_3: Path) -> None:
    model = StableDiffusion3(str(stable_diffusion_3))
    image, draw = torch.rand(2, 3, 16, 16), noise()
    posterior = model.pipeline.vae.encode(2 * image - 1).latent_dist
    expected = 1.5305 * (posterior.mean + torch.exp(0.5 * posterior.logvar) * draw - 0.0609)
    torch.testing.assert_close(model.encode(image, draw), expected)
    decoded = model.pipeline.vae.decode(expected / 1.5305 + 0.0609).sample
    torch.testing.assert_close(model.decode(expected), (decoded + 1) / 2)


@pytest.mark.parametrize(("tuning", "dual"), [("lora", True), ("full", False)])
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


def test_its_schedule_has_no_levels_of_a_diffusion_process(stable_diffusion_3: Path) -> None:
    scheduler = StableDiffusion3(str(stable_diffusion_3)).scheduler
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod: its process is not"):
        scheduler_levels(scheduler)
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'flow'"):
        scheduler_prediction(scheduler)
