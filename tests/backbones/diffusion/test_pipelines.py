import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from lightning_modules.backbones.diffusion.pipelines import check_schedule, diffusers_pipeline, need_transformers
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
    with pytest.raises(ValueError, match=r"config: model\.safetensors contains only weights; give the folder"):
        diffusers_pipeline(str(tmp_path / "model.safetensors"))


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def index_with(**entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **entries}))

    return change


def longest(tokens: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "tokenizer" / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": tokens}))

    return change


def written(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


UNET = "unet/diffusion_pytorch_model.safetensors"


def weights_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def whole(name: str, weights: Mapping[str, Any]) -> str:
    """Return the full name of a weight, which has the prefix `text_model.` in older versions of transformers."""
    return next(key for key in weights if key.endswith(name))


def trained_without(part: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(weights_of(folder, part))
        del weights[whole(name, weights)]
        save_file(weights, weights_of(folder, part), {"format": "pt"})

    return change


def pickled(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = weights_of(folder, part)
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()

    return change


def reshaped(part: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(weights_of(folder, part))
        weights[whole(name, weights)] = torch.zeros(3)
        save_file(weights, weights_of(folder, part), {"format": "pt"})

    return change


ENCODER = "encoder.layers.1.mlp.fc2.bias"
REFUSED: list[tuple[Callable[[Path], Any], dict[str, Any], type[Exception], str]] = [
    (
        without("vae"),
        {},
        FileNotFoundError,
        r"lacks vae: its model_index.json lists them, so the folder .*/vae must exist",
    ),
    (index_with(vae=[None, None]), {}, ValueError, r"lacks vae; its model_index.json has: scheduler, text_encoder"),
    (index_with(_class_name="Mine"), {}, ValueError, r"_class_name of .* must be a diffusers pipeline, .* 'Mine'"),
    (
        index_with(_class_name=["mine", "Mine"]),
        {},
        ValueError,
        r"must be a diffusers pipeline, .* \['mine', 'Mine'\]",
    ),
    (lambda folder: (folder / "model_index.json").unlink(), {}, FileNotFoundError, r"expected .*/model_index.json, as"),
    (lambda folder: (folder / "model_index.json").write_text("{"), {}, ValueError, r"model_index.json is not JSON"),
    (
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        {},
        FileNotFoundError,
        r"no weights of UNet2DConditionModel for .*unet: expected diffusion_pytorch_model.safetensors",
    ),
    (
        pickled("unet"),
        {},
        FileNotFoundError,
        r"no weights of UNet2DConditionModel for .*unet: expected diffusion_pytorch_model.safetensors",
    ),
    (trained_without("unet", "conv_out.bias"), {}, ValueError, r"the weights of .*/unet lack: conv_out\.bias$"),
    (trained_without("vae", "post_quant_conv.weight"), {}, ValueError, r"/vae lack: post_quant_conv\.weight$"),
    (trained_without("text_encoder", ENCODER), {}, ValueError, rf"/text_encoder lack: .*{ENCODER}$"),
    (reshaped("unet", "conv_out.bias"), {}, ValueError, r"the weights of .*/unet do not fit: .*conv_out\.bias"),
    (reshaped("text_encoder", ENCODER), {}, ValueError, "the weights of .*/text_encoder do not fit"),
    (index_with(unet=["runs.evil", "Unet"]), {}, ValueError, r"unet in model_index.json of .* must be \[diffusers or"),
    (index_with(unet=["diffusers"]), {}, ValueError, r"must be \[diffusers or transformers, class\]"),
    (index_with(unet=["diffusers", "Nothing"]), {}, ValueError, "is Nothing, which is not a class of diffusers"),
    (index_with(unet=["diffusers", "AutoModel"]), {}, ValueError, "is AutoModel, which is neither a network"),
    (index_with(text_encoder=["transformers", "AutoModel"]), {}, ValueError, "neither a network, a tokenizer nor"),
    (index_with(vae=["diffusers", "DiffusionPipeline"]), {}, ValueError, "is DiffusionPipeline, which is neither"),
    (index_with(_class_name="KandinskyCombinedPipeline"), {}, ValueError, "must be a single pipeline, but"),
    (index_with(_class_name="UNet2DModel"), {}, ValueError, "must be a diffusers pipeline"),
    (written("model_index.json", "[1]"), {}, ValueError, "model_index.json must contain a JSON object, got a list"),
    (written("unet/config.json", "[1]"), {}, ValueError, "unet/config.json must contain a JSON object, got a list"),
    (written("unet/config.json", '{"layers_per_block": 1000000000}'), {}, ValueError, "layers_per_block must be at mo"),
    (written("text_encoder/config.json", "{"), {}, ValueError, "text_encoder/config.json is not JSON"),
    (written("tokenizer/tokenizer_config.json", "[1]"), {}, ValueError, "tokenizer_config.json must contain a JSON"),
    (written("unet/config.json", '{"sample_size": "64"}'), {}, ValueError, "sample_size must be a whole number in 1"),
    (longest(10**30), {}, ValueError, r"model_max_length of .*tokenizer must be in 1 \.\.\. 4096, got 1000000000"),
    (longest(0), {}, ValueError, r"model_max_length of .*tokenizer must be in 1 \.\.\. 4096, got 0"),
    (written("scheduler/scheduler_config.json", "[1]"), {}, ValueError, "scheduler_config.json must contain a JSON"),
    (written("unet/adapter_config.json", "{}"), {}, ValueError, "adapter_config.json shows that the folder contains"),
    (written(UNET, "text"), {}, ValueError, "unet/diffusion_pytorch_model.safetensors is not a readable file"),
    (
        written("text_encoder/model.safetensors.index.json", '{"weight_map": {"x": "../../secret.safetensors"}}'),
        {},
        ValueError,
        "weight_map must name files next to it, got '../../secret.safetensors'",
    ),
    (
        lambda folder: [file.unlink() for file in (folder / "tokenizer").iterdir()],
        {},
        FileNotFoundError,
        r"no pipeline .*tokenizer has no vocabulary: expected vocab\.json or merges\.txt or tokenizer\.json; copy the",
    ),
    (lambda folder: None, {"config": "x"}, ValueError, "config is only allowed for a single file of weights"),
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
    with pytest.raises(error, match=message) as caught:
        diffusers_pipeline(str(folder), PARTS, **arguments)
    assert "\n" not in str(caught.value)


def test_no_code_beside_a_pipeline_is_imported_or_asked_for(
    text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(text_to_image, tmp_path / "saved")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *said: "y")
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Mine: pass\n"
    for place in ("strangers_module.py", "saved/tokenizer/mine.py", "saved/unet/mine.py"):
        (tmp_path / place).write_text(code)
    own = {"auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}, "tokenizer_class": "Mine", "model_type": "mine"}
    for name in ("tokenizer_config", "config"):
        (folder / "tokenizer" / f"{name}.json").write_text(json.dumps(own))
    for part, entry in (
        ("unet", ["strangers_module", "Mine"]),
        ("unet", ["mine", "Mine"]),
        ("tokenizer", ["transformers", "AutoTokenizer"]),
    ):
        index = json.loads((text_to_image / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, part: entry}))
        with pytest.raises(ValueError, match=str(folder)):
            diffusers_pipeline(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pipeline_without_text_needs_no_transformers(unconditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.backbones.diffusion.pipelines.find_spec", lambda name: None)
    assert type(diffusers_pipeline(str(unconditional), ("unet", "scheduler"))).__name__ == "DDPMPipeline"
    with pytest.raises(ImportError, match=r"this needs transformers: pip install 'noiseworks\[pipelines\]'"):
        need_transformers("this")


def test_a_pipeline_with_text_says_that_transformers_is_missing(
    text_to_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.backbones.diffusion.pipelines.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the text encoder of .* needs transformers"):
        diffusers_pipeline(str(text_to_image))


def test_schedulers_that_do_not_fit_are_named() -> None:
    check_schedule(DDIMScheduler())
    with pytest.raises(ValueError, match="DDIMScheduler must be one of epsilon, got 'v_prediction'"):
        check_schedule(DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        check_schedule(FlowMatchEulerDiscreteScheduler())
