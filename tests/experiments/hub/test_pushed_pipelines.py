"""A fine-tuned diffusion model is pushed in the diffusers layout, with separate or merged adapters."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

import train
from experiments.load_run import load_run
from tests.datamodules.image_folders import photograph, save
from tests.experiments.hub.conftest import QUIET, push


@pytest.fixture(scope="module")
def tuned(home: Path, text_to_image: Path) -> Path:
    """Train a LoRA of a tiny pipeline on three images in the home folder."""
    return fitted(home, text_to_image, "lora", "tuned")


def fitted(home: Path, pipeline: Path, config_name: str, run_name: str, **more: Any) -> Path:
    for number in range(3):
        save(home / "my_subject" / f"{number}.png", photograph(20, 20, number))
    before, run = os.getcwd(), home / "runs" / run_name
    config = Path(f"configs/finetuning/{config_name}.yaml").absolute()
    os.chdir(home)
    try:
        settings: dict[str, Any] = {
            "--config": config, "--run_directory": run, "--model.network.pipeline": pipeline,
            "--model.cache_dir": "null", "--model.average_decay": 0.5, "--model.optimizer.lr": 1,
            "--model.sampling.steps": 2, "--data.images.data_dir": home / "my_subject",
            "--data.images.image_size": 16, "--data.images.prompt": "a cat", "--data.validation_fraction": 0,
            "--data.loading.num_workers": 0, "--data.batch_size": 3, "--trainer.max_steps": 2,
            "--trainer.precision": "32", "--trainer.accelerator": "cpu", "--trainer.callbacks": "null", **more,
        }  # fmt: skip
        assert train.main(["fit", *(str(each) for pair in settings.items() for each in pair), *QUIET]) == 0
    finally:
        os.chdir(before)
    save(run / "figures" / "alphabetically_first.png", photograph(20, 20))
    save(run / "figures" / "samples.png", photograph(20, 20))
    return run


def private(folder: Path, *texts: object) -> list[str]:
    return [
        f"{path.name}: {text}"
        for path in folder.rglob("*")
        if path.is_file()
        for text in texts
        if str(text).encode() in path.read_bytes()
    ]


def drawn(pipeline: Any) -> torch.Tensor:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    return pipeline("a cat", latents=noise, output_type="pt", **options).images


def test_adapters_and_merged_weights_draw_the_same_in_diffusers_alone(
    tuned: Path, text_to_image: Path, home: Path, tmp_path: Path
) -> None:
    name = "stabilityai/sd-tiny"
    options = ("--base_model", name, "--license", "openrail")
    assert push(tuned, "--output", tmp_path / "lora", "--format", "kohya", *options) == 0
    assert push(tuned, "--output", tmp_path / "whole", "--merged", *options) == 0
    lora: Any = DiffusionPipeline.from_pretrained(text_to_image)
    before = drawn(lora)
    lora.load_lora_weights(tmp_path / "lora", subfolder="pipeline", weight_name="pytorch_lora_weights.safetensors")
    expected = drawn(lora)
    assert (expected - before).abs().max() > 1e-3
    lora.unload_lora_weights()
    lora.load_lora_weights(tmp_path / "lora", weight_name="kohya.safetensors")
    torch.testing.assert_close(drawn(lora), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        drawn(DiffusionPipeline.from_pretrained(tmp_path / "whole" / "pipeline")), expected, atol=1e-5, rtol=0
    )
    assert private(tmp_path, home, text_to_image, home.name, text_to_image.parent) == []
    cards = [ModelCard.load(tmp_path / kind / "README.md") for kind in ("lora", "whole")]
    for card, relation, tags in zip(cards, ("adapter", "finetune"), (["lora"], []), strict=True):
        assert card.data.to_dict() == {
            "base_model": name, "base_model_relation": relation, "library_name": "diffusers", "license": "openrail",
            "pipeline_tag": "text-to-image", "tags": ["noiseworks", "finetuning", *tags],
        }  # fmt: skip
        assert "](samples.png)" in card.text
    assert f'from_pretrained("{name}")' in cards[0].text
    assert 'load_lora_weights("lora", subfolder="pipeline"' in cards[0].text


def test_the_run_loads_with_the_base_model_of_another_machine(
    tuned: Path, text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(tuned, "--output", tmp_path / "lora") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model, _ = load_run(tmp_path / "lora", arguments=["--model.network.pipeline", str(text_to_image)])
    for name, value in load_run(tuned)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_run_without_adapters_has_none_to_merge(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(own_run, "--output", tmp_path / "x", "--merged") == 2
    assert "--merged needs a run with adapters, but " in capsys.readouterr().err


@pytest.mark.nightly
def test_a_merged_network_is_pushed_as_it_is_and_its_card_says_how_diffusers_loads_it(
    home: Path, pixart_sigma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, base = fitted(home, pixart_sigma, "pixart_sigma_lora", "merged"), "somebody/pixart"
    for folder, options in (("plain", ()), ("merged", ("--merged",))):
        assert push(run, "--output", tmp_path / folder, "--base_model", base, *options) == 0
    assert "the LoRA was already merged: pipeline/transformer contains the merged weights" in capsys.readouterr().out
    names = {path.relative_to(tmp_path / "plain").as_posix() for path in (tmp_path / "plain").rglob("*")}
    assert names == {path.relative_to(tmp_path / "merged").as_posix() for path in (tmp_path / "merged").rglob("*")}
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert (card.data.library_name, card.data.base_model_relation) == ("diffusers", "finetune")
    code = card.text.partition("Without noiseworks:")[2].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace(base, str(pixart_sigma)), found)
    state = found["pipeline"].transformer.state_dict()
    before = DiffusionPipeline.from_pretrained(pixart_sigma).transformer.state_dict()
    half = {"rtol": 1e-2, "atol": 1e-3}  # the network is saved in bfloat16
    changed = {name for name, value in state.items() if not torch.allclose(value.float(), before[name], **half)}
    assert changed
    assert all("attn" in name for name in changed)


@pytest.mark.nightly
def test_adapters_for_peft_and_merged_weights_draw_the_same_without_this_project(
    home: Path, text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fitted(home, text_to_image, "lora", "lokr", **{"--model.network.adapters.kind": "lokr"})
    base = "somebody/sd-tiny"
    for folder, options in (("lokr", ()), ("whole", ("--merged",))):
        assert push(run, "--output", tmp_path / folder, "--base_model", base, *options) == 0
    card = ModelCard.load(tmp_path / "lokr" / "README.md")
    assert card.data.base_model_relation == "adapter"
    code = card.text.partition("Without noiseworks:")[2].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace(base, str(text_to_image)), found)
    expected = drawn(found["pipeline"])
    assert (expected - drawn(DiffusionPipeline.from_pretrained(text_to_image))).abs().max() > 1e-3
    whole = DiffusionPipeline.from_pretrained(tmp_path / "whole" / "pipeline")
    torch.testing.assert_close(drawn(whole), expected, atol=1e-5, rtol=0)
