"""FLUX.1, FLUX.1 Kontext and Chroma match plain diffusers, and are trained with the inputs of their pipelines."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flux import Flux, FluxKontext, image_positions
from lightning_modules.backbones.diffusion.text_to_image import Prompts
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


@pytest.mark.parametrize("sides", [None, (8, 24)])
def test_the_source_may_be_absent_or_of_another_size(sides: tuple[int, int] | None, flux_kontext: Path) -> None:
    """The pipeline then generates from the prompt alone, or gives the source's tokens positions of their own grid."""
    model, alone = FluxKontext(str(flux_kontext)), FluxKontextPipeline.from_pretrained(flux_kontext)
    prompts, latent, source = model.encode_prompts(CAPTIONS[:2]), noise(model, 2, 16), None
    if sides is not None:
        source = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(3))
    encoded: dict[str, Any] = {} if source is None else {"image": model.encode(source)}
    found = model.generate(prompts, latent, 2, 2.0, **encoded)
    expected = alone(
        source, CAPTIONS[:2], latents=model.pack(latent), height=16, width=16, num_inference_steps=2,
        guidance_scale=2.0, output_type="pt", max_area=256, _auto_resize=False,
    ).images  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    others = {"image": noise(model, 2, 16, seed=1)} if source is None else {}
    assert (found - model.generate(prompts, latent, 2, 2.0, **others)).abs().max() > 1e-3


def test_the_tokens_of_the_source_have_positions_whose_first_coordinate_is_1(flux_kontext: Path) -> None:
    model = FluxKontext(str(flux_kontext))
    seen: dict[str, Tensor] = {}
    model.network.register_forward_pre_hook(lambda network, args, given: seen.update(given), with_kwargs=True)
    latent = noise(model, 2, 8)
    model(latent, torch.tensor(500.0), model.encode_prompts(CAPTIONS[:2]), noise(model, 1, 8, seed=1))
    grid = [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert seen["img_ids"].tolist() == [[image, *place] for image in (0, 1) for place in grid]
    assert torch.equal(seen["hidden_states"][:, :4], model.pack(latent))


@pytest.mark.parametrize(
    ("kind", "fixture", "other"), [(Flux, "flux_kontext", "FluxKontext"), (FluxKontext, "flux", "Flux")]
)
def test_pipelines_with_and_without_kontext_are_told_apart(
    kind: Any, fixture: str, other: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(
        ValueError, match=rf"_class_name of .* must be of class .*, got .*; use {other} for this pipeline$"
    ):
        kind(str(request.getfixturevalue(fixture)))


def test_a_step_at_full_size_on_the_meta_device(flux_kontext: Path) -> None:
    """The network is that of FLUX.1-dev; with a source image of 1024 x 1024 pixels, it has 2 x 4096 image tokens."""
    model = FluxKontext(str(flux_kontext))
    model.pipeline.vae_scale_factor = 8
    with torch.device("meta"):
        model.network = FluxTransformer2DModel(guidance_embeds=True)
        assert sum(parameter.numel() for parameter in model.network.parameters()) == 11_901_408_320
        z, prompts = torch.empty(1, 16, 128, 128), Prompts(torch.empty(1, 512, 4096), torch.empty(1, 768))
        output = model(z, torch.empty(1), prompts, z)
        assert output.shape == z.shape
        output.mean().backward()
    assert all(parameter.grad is not None for parameter in model.network.parameters())
