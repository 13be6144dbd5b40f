"""The content of a run's model card."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.hub.model_card import CardOptions, method_of, model_card, task
from experiments.hub.pushed_folder import Pushed
from lightning_modules.diffusion.finetuning import DiffusionFineTuning


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("TextToImage", "text-to-image"),
        ("text_to_image.TextToImage", "text-to-image"),
        ("PixArtSigma", "text-to-image"),
        ("QwenImage", "text-to-image"),
        ("text_to_image_pipeline", "text-to-image"),
        ("pixel_space.PixelSpace", "unconditional-image-generation"),
        ("pixel_space.pixel_pipeline", "unconditional-image-generation"),
    ],
)
def test_every_family_of_pipelines_is_text_to_image(network: str, expected: str) -> None:
    method = "lightning_modules.diffusion.finetuning.DiffusionFineTuning"
    path = f"lightning_modules.backbones.diffusion.{network}"
    settings = {
        "model": {"class_path": method, "init_args": {"network": {"class_path": path, "init_args": {}}}},
        "data": {"class_path": "datamodules.prompts.captioned_images.CaptionedImages"},
    }
    assert task(settings, method_of(method)) == expected


@pytest.mark.parametrize(
    ("network", "flows"),
    [("StableDiffusion3", True), ("z_image.ZImage", True), ("TextToImage", False), ("pixel_space.PixelSpace", False)],
)
def test_the_card_has_the_loss_of_the_model(network: str, flows: bool, tmp_path: Path) -> None:
    method = "lightning_modules.diffusion.finetuning.DiffusionFineTuning"
    path = f"lightning_modules.backbones.diffusion.{network}"
    settings: Any = {"model": {"class_path": method, "init_args": {"network": {"class_path": path}}}}
    options = CardOptions("me/mine", docstring=DiffusionFineTuning.loss_docstring(settings["model"]["init_args"]))
    card = model_card(Pushed(settings, {}, "last", method, 3, None, ()), tmp_path, options)
    assert ("|f(z_t, t, c) - (e - z)|^2" in card) == ("arxiv.org/abs/2403.03206" in card) == flows
    assert ("sqrt(1 - abar_t) e" in card) == ("arxiv.org/abs/2303.09556" in card) == (not flows)


@pytest.mark.parametrize("name", ["HunyuanDiT2DModel", "x; import os"])
def test_the_card_of_a_merged_network_says_how_diffusers_loads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
    (tmp_path / "pipeline" / "transformer" / "config.json").write_text(json.dumps({"_class_name": name}))
    files = ("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors")
    method = "lightning_modules.diffusion.finetuning.DiffusionFineTuning"
    pushed = Pushed({"model": {"class_path": method}}, {}, "last", method, 3, None, files)
    options = CardOptions("me/mine", base_model="them/theirs")
    if not name.isidentifier():
        with pytest.raises(
            ValueError, match=r"pipeline/transformer/config\.json names no class of diffusers, got 'x; "
        ):
            model_card(pushed, tmp_path, options)
        return
    card = model_card(pushed, tmp_path, options)
    assert 'HunyuanDiT2DModel.from_pretrained("me/mine", subfolder="pipeline/transformer")' in card
    assert 'DiffusionPipeline.from_pretrained("them/theirs", transformer=transformer)' in card
    assert "library_name: diffusers" in card


@pytest.mark.parametrize("kind", ["ControlNetModel", "FluxControlNetModel", "x; import os"])
def test_the_card_of_a_controlnet_says_how_diffusers_loads_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "controlnet").mkdir(parents=True)
    (tmp_path / "pipeline" / "controlnet" / "config.json").write_text(json.dumps({"_class_name": kind}))
    files = ("controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors")
    method = "lightning_modules.diffusion.finetuning.ControlNet"
    pushed = Pushed({"model": {"class_path": method}}, {}, "last", method, 3, None, files)
    options = CardOptions("me/mine", base_model="them/theirs")
    if not kind.isidentifier():
        with pytest.raises(ValueError, match=r"pipeline/controlnet/config\.json names no class of diffusers, got 'x; "):
            model_card(pushed, tmp_path, options)
        return
    card = model_card(pushed, tmp_path, options)
    assert f'{kind}.from_pretrained("me/mine", subfolder="pipeline/controlnet")' in card
    assert 'AutoPipelineForText2Image.from_pretrained("them/theirs", controlnet=controlnet)' in card
    assert "library_name: diffusers" in card
    assert "base_model_relation: adapter" in card


@pytest.mark.parametrize("encoders", [1, 2])
def test_the_card_of_a_new_word_says_how_diffusers_loads_it(encoders: int, tmp_path: Path) -> None:
    files = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")[:encoders]
    method = "lightning_modules.diffusion.finetuning.TextualInversion"
    pushed = Pushed(
        {"model": {"class_path": method, "init_args": {"placeholder_token": "<x>"}}}, {}, "last", method, 3, None, files
    )
    card = model_card(pushed, tmp_path, CardOptions("me/mine", base_model="them/theirs"))
    assert 'DiffusionPipeline.from_pretrained("them/theirs")' in card
    named = 'load_textual_inversion("me/mine", subfolder="pipeline", weight_name="learned_embeds.safetensors"'
    assert named in card
    assert ("text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2" in card) == (encoders == 2)
    assert "`<x>`" in card
    assert "library_name: diffusers" in card
