"""Training starts from a LoRA under the names of diffusers. `test_lora_names.py` has those of other programs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.text_to_image import Weights
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.backbones.diffusion.test_export import moved
from tests.nightly import nightly_beyond

LORA = "pytorch_lora_weights.safetensors"


def lora(folder: Path, file: Path | None = None, rank: int = 2, **options: Any) -> Any:
    weights = Weights(lora=None if file is None else str(file))
    return text_to_image_pipeline(str(folder), weights, "lora", Adapters(rank, **options)).eval()


def outputs(model: Any, side: int) -> torch.Tensor:
    prompts = model.encode_prompts(["a cat"])
    with torch.no_grad():
        return model.generate(prompts, noise(model, 1, side), num_inference_steps=1, guidance_scale=1.0)


@pytest.mark.parametrize("fixture", nightly_beyond(["text_to_image", "xl", "flux"], ["text_to_image", "xl", *FAMILIES]))
def test_a_network_computes_what_the_file_was_saved_with(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, side = request.getfixturevalue(fixture), side_of(fixture)
    saved = lora(folder, alpha=3, rslora=True)
    if not hasattr(saved.pipeline, "load_lora_weights"):
        return  # the network is saved with merged adapters
    moved(saved)
    save_model(saved, tmp_path, writes=True)
    started = lora(folder, tmp_path / LORA)
    torch.testing.assert_close(outputs(started, side), outputs(saved, side), atol=1e-5, rtol=0)
    assert (outputs(lora(folder), side) - outputs(saved, side)).abs().max() > 1e-4
    assert all(each.requires_grad == ("lora_" in name) for name, each in started.network.named_parameters())


def test_files_of_other_adapters_are_rejected(text_to_image: Path, xl: Path, tmp_path: Path) -> None:
    saved = lora(text_to_image)
    save_model(saved, tmp_path, writes=True)
    file = tmp_path / LORA
    other = tmp_path / "other.safetensors"
    save_file({f"text_encoder.{name}": value for name, value in load_file(file).items()} | load_file(file), other)
    (tmp_path / "damaged.safetensors").write_bytes(file.read_bytes()[:99])
    save_file({"weight": torch.zeros(2)}, tmp_path / "no.safetensors")
    for name, metadata in (("list", "[1]"), ("text", "{"), ("alpha", '{"unet.lora_alpha": "a"}')):
        save_file(load_file(file), tmp_path / f"{name}.safetensors", {"lora_adapter_metadata": metadata})
    for folder, given, options, message in (
        (text_to_image, file, {"rank": 3}, f"adapters.rank must be that of {file}, 2"),
        (text_to_image, file, {"targets": ["to_q"]}, f"{file} has further adapters down_blocks"),
        (text_to_image, file, {"dora": True}, f"{file} has no adapters down_blocks"),
        (xl, file, {}, f"{file} has "),
        (text_to_image, other, {}, f"{other} also adapts other parts than the unet, which are not trained"),
        (text_to_image, tmp_path / "damaged.safetensors", {}, "damaged.safetensors"),
        (text_to_image, tmp_path / "no.safetensors", {}, "no.safetensors"),
        *(
            (text_to_image, tmp_path / f"{name}.safetensors", {}, f"{name}.safetensors has damaged metadata")
            for name in ("list", "text", "alpha")
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            lora(folder, given, **options)
    with pytest.raises(FileNotFoundError, match=r"weights\.lora must be a \.safetensors file, and there is none at"):
        lora(text_to_image, tmp_path / "missing.safetensors")
    with pytest.raises(
        ValueError, match=r"weights\.lora is used only with tuning lora and adapters\.kind lora, loha or lokr: leave"
    ):
        text_to_image_pipeline(str(text_to_image), Weights(lora=str(file)), "full")
    with pytest.raises(
        ValueError, match=r"weights\.lora is used only with tuning lora and adapters\.kind lora, loha or lokr: leave"
    ):
        lora(text_to_image, file, kind="oft")
