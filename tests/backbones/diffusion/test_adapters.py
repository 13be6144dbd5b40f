"""Adapters of each kind in the families, saved for use with plain diffusers or peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline
from peft import PeftModel
from safetensors import safe_open

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.adapters import ADAPTERS, NAMES, adapter_names, adapter_settings, check_adapters
from lightning_modules.backbones.diffusion.export import merge_adapters, save_model
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.pixel_space import pixel_pipeline
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.backbones.diffusion.test_export import moved
from tests.nightly import nightly_beyond

ALL: dict[str, Any] = {"alpha": 3, "rslora": True, "dora": True}
KINDS: list[dict[str, Any]] = [{"alpha": 3}, {"rslora": True}, {"dora": True}, ALL]
OTHERS: list[dict[str, Any]] = [{"kind": "loha", "alpha": 3}, {"kind": "lokr", "alpha": 3}, {"kind": "oft"}]
METADATA = "lora_adapter_metadata"


def alone(model: TextToImage, folder: Path, saved: Path) -> Any:
    """Load a pipeline and saved adapters with plain diffusers."""
    if (saved / model.parts[0] / "adapter_config.json").is_file():
        pipeline: Any = DiffusionPipeline.from_pretrained(folder)
        PeftModel.from_pretrained(getattr(pipeline, model.parts[0]), saved / model.parts[0])
        return pipeline
    if hasattr(model.pipeline, "load_lora_weights"):
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.load_lora_weights(saved)
        return pipeline
    kind = next(each for each in type(model.network).__mro__ if each.__module__.startswith("diffusers"))
    return DiffusionPipeline.from_pretrained(folder, transformer=kind.from_pretrained(saved / "transformer"))


def sampled(model: TextToImage, pipeline: Any, side: int) -> torch.Tensor:
    """Generate an image with the diffusers pipeline, with the arguments that the model passes to its own pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        **model.for_pipeline(model.encode_prompts(["a cat"]), model.empty_prompts(1)), **model.for_guidance(2.0),
        latents=model.pack(noise(model, 1, side)), height=side, width=side, num_inference_steps=2, output_type="pt",
        generator=torch.Generator().manual_seed(0), **({"max_area": side**2} if model.takes_source else {}),
    ).images  # fmt: skip


def assert_diffusers_alone_samples_the_same(fixture: str, folder: Path, output: Path, **options: Any) -> None:
    side = side_of(fixture)
    model = text_to_image_pipeline(str(folder), tuning="lora", adapters=Adapters(2, **options)).eval()
    before = sampled(model, model.pipeline, side)
    base = sampled(model, DiffusionPipeline.from_pretrained(folder), side)
    torch.testing.assert_close(before, base, atol=1e-6, rtol=0)
    moved(model)
    found = sampled(model, model.pipeline, side)
    assert (found - before).abs().max() > 1e-4
    save_model(model, output, writes=True)
    torch.testing.assert_close(sampled(model, alone(model, folder, output), side), found, atol=1e-5, rtol=0)
    merged = merge_adapters(model.network, model.network.state_dict())
    plain = getattr(DiffusionPipeline.from_pretrained(folder), model.parts[0])
    model.pipeline.register_modules(**{model.parts[0]: plain})
    plain.load_state_dict(merged)
    torch.testing.assert_close(sampled(model, model.pipeline, side), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fixture", nightly_beyond(["xl", "flux"], ["xl", *FAMILIES]))
def test_diffusers_alone_loads_scaled_dora_of_each_family(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert_diffusers_alone_samples_the_same(fixture, request.getfixturevalue(fixture), tmp_path, **ALL)


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: options["kind"])
@pytest.mark.parametrize("fixture", nightly_beyond(["flux"], ["text_to_image", "flux", "pixart_sigma"]))
def test_peft_alone_loads_loha_lokr_and_oft(
    fixture: str, options: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert_diffusers_alone_samples_the_same(fixture, request.getfixturevalue(fixture), tmp_path, **options)


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft"])
@pytest.mark.parametrize("weights", [Weights(dtype="bfloat16"), Weights(quantization="float8")])
def test_only_adapters_in_float32_get_gradients(kind: Any, weights: Weights, text_to_image: Path) -> None:
    model = TextToImage(str(text_to_image), weights, "lora", Adapters(2, kind=kind)).train()
    moved(model)
    model(noise(model, 1), torch.tensor([300]), model.encode_prompts(["a cat"])).square().sum().backward()
    added = {f"network.{name}" for name in adapter_names(model.network)}
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found == added == {*model.state_dict()}
    assert {model.get_parameter(name).dtype for name in added} == {torch.float32}


@pytest.mark.parametrize("options", KINDS)
def test_diffusers_alone_loads_each_kind(options: dict[str, Any], text_to_image: Path, tmp_path: Path) -> None:
    assert_diffusers_alone_samples_the_same("text_to_image", text_to_image, tmp_path, **options)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as file:
        written = json.loads(file.metadata()[METADATA])
    expected = {"r": 2, "lora_alpha": 2, "use_rslora": False, "use_dora": False}
    expected |= {name: options[key] for name, key in NAMES.items() if key in options and name in expected}
    assert {key.removeprefix("unet."): value for key, value in written.items() if "target" not in key} == expected


def test_the_file_of_plain_lora_has_no_settings(text_to_image: Path, tmp_path: Path) -> None:
    save_model(TextToImage(str(text_to_image), tuning="lora", adapters=Adapters(alpha=4)), tmp_path, writes=True)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as file:
        assert METADATA not in file.metadata()


@pytest.mark.parametrize("options", [{"alpha": 3, "rslora": True}, ALL, *OTHERS[:2]])
def test_adapters_of_convolutions_and_projections_are_merged(
    options: dict[str, Any], unconditional: Path, tmp_path: Path
) -> None:
    targets = ["to_q", "to_v", "conv1"]
    model = pixel_pipeline(str(unconditional), tuning="lora", adapters=Adapters(2, targets, **options))
    moved(model)
    save_model(model, tmp_path, writes=True)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        found = DDPMPipeline.from_pretrained(tmp_path).unet(x, t).sample
        torch.testing.assert_close(found, model.eval()(x, t), atol=1e-4, rtol=0)


def test_a_checkpoint_of_another_kind_is_rejected(text_to_image: Path) -> None:
    def network(tuning: Any = "lora", **options: Any) -> torch.nn.Module:
        adapters = Adapters(**{"rank": 2, **options})
        return TextToImage(str(text_to_image), tuning=tuning, adapters=adapters).network

    saved = network(**ALL)
    checkpoint = {"state_dict": saved.state_dict(), ADAPTERS: adapter_settings(saved)}
    check_adapters(saved, checkpoint)
    older = {"state_dict": network().state_dict()}
    check_adapters(network(), older)
    rotated = {"state_dict": {}, ADAPTERS: adapter_settings(network(kind="oft"))}
    check_adapters(network(kind="oft"), rotated)
    for options, given, message in (
        ({**ALL, "rank": 4}, checkpoint, "adapters.rank must be 2, as in the checkpoint, got 4"),
        ({**ALL, "alpha": 4}, checkpoint, "adapters.alpha must be 3, as in the checkpoint, got 4"),
        ({**ALL, "rslora": False}, checkpoint, "adapters.rslora must be True, as in the checkpoint, got False"),
        ({**ALL, "dora": False}, checkpoint, "adapters.dora must be True, as in the checkpoint, got False"),
        ({"kind": "lokr"}, checkpoint, "adapters.kind must be lora, as in the checkpoint, got lokr"),
        ({"kind": "oft"}, older, "adapters.kind must be lora, as in the checkpoint, got oft"),
        ({"kind": "oft", "rank": 4}, rotated, "adapters.rank must be 2, as in the checkpoint, got 4"),
        ({"tuning": "full", "rank": 4}, rotated, "the checkpoint has adapters, but tuning is full"),
        ({"alpha": 4}, older, "adapters.alpha must be 2, as in the checkpoint, got 4"),
        ({"tuning": "full", "rank": 4}, older, "the checkpoint has adapters, but tuning is full"),
        ({}, {"state_dict": {}}, "the checkpoint has no adapters, but tuning is lora"),
    ):
        with pytest.raises(ValueError, match=message):
            check_adapters(network(**options), given)
