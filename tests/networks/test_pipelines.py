import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import save_file

from lightning_modules.networks.pipelines import check_schedule, diffusers_pipeline, need_transformers
from tests.networks.single_file import original_names

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def test_a_folder_is_loaded_as_diffusers_alone_loads_it(text_to_image: Path) -> None:
    loaded = diffusers_pipeline(str(text_to_image), PARTS)
    expected: Any = StableDiffusionPipeline.from_pretrained(text_to_image)
    assert type(loaded) is StableDiffusionPipeline
    for part in ("unet", "vae", "text_encoder"):
        for one, other in zip(getattr(loaded, part).parameters(), getattr(expected, part).parameters(), strict=True):
            assert torch.equal(one, other)
    with torch.device("meta"):
        assert diffusers_pipeline(str(text_to_image)).unet.device.type == "cpu"


def test_half_precision_is_that_of_all_but_the_autoencoder(text_to_image: Path) -> None:
    loaded = diffusers_pipeline(str(text_to_image), dtype="bfloat16")
    assert (loaded.unet.dtype, loaded.text_encoder.dtype, loaded.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )


def test_a_variant_is_another_file_of_weights(text_to_image: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(text_to_image)
    pipeline.unet.conv_out.bias.data.fill_(7)
    pipeline.save_pretrained(tmp_path, variant="ema")
    assert (diffusers_pipeline(str(tmp_path), variant="ema").unet.conv_out.bias == 7).all()
    with pytest.raises(ValueError, match=r"cannot be loaded: .*variant=none_such"):
        diffusers_pipeline(str(tmp_path), variant="none_such")


def test_a_single_file_is_the_pipeline_that_its_config_describes(text_to_image: Path, tmp_path: Path) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(text_to_image)
    save_file(original_names(pipeline), tmp_path / "model.safetensors")
    loaded = diffusers_pipeline(str(tmp_path / "model.safetensors"), PARTS, config=str(text_to_image))
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(pipeline, part).state_dict()
        for name, value in getattr(loaded, part).state_dict().items():
            assert torch.equal(value, expected[name]), f"{part}.{name}"
    with pytest.raises(ValueError, match=r"config: model\.safetensors holds weights alone; give the folder"):
        diffusers_pipeline(str(tmp_path / "model.safetensors"))


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def index_with(**entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **entries}))

    return change


REFUSED: list[tuple[Callable[[Path], Any], dict[str, Any], type[Exception], str]] = [
    (without("vae"), {}, FileNotFoundError, r"lacks vae: expected the folder .*/vae, which its model_index.json names"),
    (index_with(vae=[None, None]), {}, ValueError, r"lacks vae; its model_index.json has: scheduler, text_encoder"),
    (index_with(_class_name="Mine"), {}, ValueError, r"_class_name of .* must be a pipeline of diffusers, .* 'Mine'"),
    (
        index_with(_class_name=["mine", "Mine"]),
        {},
        ValueError,
        r"must be a pipeline of diffusers, .* \['mine', 'Mine'\]",
    ),
    (lambda folder: (folder / "model_index.json").unlink(), {}, FileNotFoundError, r"expected .*/model_index.json, as"),
    (lambda folder: (folder / "model_index.json").write_text("{"), {}, ValueError, r"model_index.json is not JSON"),
    (
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        {},
        FileNotFoundError,
        "a part or its weights is neither on disk",
    ),
    (lambda folder: None, {"config": "x"}, ValueError, "config belongs to a single file of weights"),
    (lambda folder: None, {"dtype": "int8"}, ValueError, "dtype must be one of None, float32, bfloat16, float16"),
]


@pytest.mark.parametrize(("change", "arguments", "error", "message"), REFUSED)
def test_what_is_refused(
    change: Callable[[Path], Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    text_to_image: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(text_to_image, tmp_path / "saved")
    change(folder)
    with pytest.raises(error, match=message):
        diffusers_pipeline(str(folder), PARTS, **arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", "no such folder in .* Hugging Face cache, where alone local_files_only .* `hf download"),
        ("/nowhere/at/all", "no pipeline at /nowhere/at/all: expected a folder with model_index.json"),
        ("missing.safetensors", "expected one file with all weights"),
    ],
)
def test_what_is_nowhere_says_where_it_was_looked_for(name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        diffusers_pipeline(name, local_files_only=True)


def test_a_pipeline_without_text_needs_no_transformers(unconditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.networks.pipelines.find_spec", lambda name: None)
    assert type(diffusers_pipeline(str(unconditional), ("unet", "scheduler"))).__name__ == "DDPMPipeline"
    with pytest.raises(ImportError, match=r"this needs transformers: pip install 'noiseworks\[pipelines\]'"):
        need_transformers("this")


def test_a_pipeline_with_text_says_that_transformers_is_missing(
    text_to_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.networks.pipelines.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the text encoder of .* needs transformers"):
        diffusers_pipeline(str(text_to_image))


def test_schedulers_that_do_not_fit_are_named() -> None:
    check_schedule(DDIMScheduler())
    with pytest.raises(ValueError, match="DDIMScheduler must be one of epsilon, got 'v_prediction'"):
        check_schedule(DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        check_schedule(FlowMatchEulerDiscreteScheduler())
