"""FLUX.1 and Chroma match plain diffusers, and are trained with the inputs that their pipelines pass."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import FluxPipeline

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flux import Flux, image_positions
from tests.backbones.diffusion.family_checks import CAPTIONS, FAMILIES, noise
from tests.tiny_pipelines import save_flux


def test_it_generates_what_diffusers_alone_generates_without_a_guidance_embedding(tmp_path: Path) -> None:
    folder = save_flux(tmp_path, guidance_embeds=False)
    model = Flux(str(folder))
    expected = FAMILIES["flux"].images(FluxPipeline.from_pretrained(folder), noise(model, 2, 16))
    found = model.generate(model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 16), 2, 2.0)
    torch.testing.assert_close(found, expected)


def test_the_configuration_says_which_layers_the_script_of_diffusers_adapts(flux: Path) -> None:
    """The header's option adds the feed-forward layers of image and text to the default."""
    header = " ".join(line[2:] for line in Path("configs/finetuning/flux_lora.yaml").read_text().splitlines())
    [targets] = re.findall(r"--model\.network\.adapters\.targets '(.*?)'", header)
    default, script = (
        {name.split(".lora_")[0] for name in Flux(str(flux), tuning="lora", adapters=adapters).state_dict()}
        for adapters in (Adapters(), Adapters(targets=yaml.safe_load(targets)))
    )
    assert default < script
    layers = {re.sub(r".*_blocks\.\d+\.", "", name) for name in script - default}
    assert layers == {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}


def test_a_whole_tuned_pipeline_is_loaded_by_diffusers_alone(flux: Path, tmp_path: Path) -> None:
    model = Flux(str(flux), tuning="full")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model.eval(), tmp_path / "tuned", writes=True)
    alone: Any = FluxPipeline.from_pretrained(tmp_path / "tuned")
    for name, value in alone.transformer.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name]), name
        assert not torch.equal(value, before[name]), name
    found = model.generate(model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 16), 2, 2.0)
    torch.testing.assert_close(found, FAMILIES["flux"].images(alone, noise(model, 2, 16)), atol=1e-5, rtol=0)


def test_positions_are_the_pipelines(flux: Path) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    expected = FluxPipeline._prepare_latent_image_ids(2, 3, 5, like.device, like.dtype)
    assert torch.equal(image_positions(3, 5, like), expected)
