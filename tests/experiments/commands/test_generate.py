"""`train.py generate`: a folder of images from a run or a pipeline, identical for any number of processes."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from datamodules.files.whole_files import owned_path
from datamodules.prompts.bright_digits import BrightDigits
from datamodules.prompts.captioned_images import CaptionedImages
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning import DiffusionFineTuning
from tests import command
from tests.conformance.runs import CONFIGS, run, written
from tests.datamodules.jobs.killing import tree
from tests.diffusion.finetuning.models import tuning
from tests.tiny_pipelines import save_dit
from tests.two_processes import in_two_processes
from train import main

Base = Callable[[str], Path]
CPU = ("--accelerator", "cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Train a run once."""

    @cache
    def trained(name: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        settings = written(name, directory, {"trainer.max_epochs": 1, "trainer.callbacks": []})
        run("fit", "--config", settings, "--run_directory", directory / "run", "--test_after_fit", "false")
        return directory / "run"

    return trained


def generate(*words: Any) -> int:
    return main(["generate", *map(str, words)])


def is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, *words: Any) -> None:
    """Check that a command line is answered with one sentence, and writes nothing."""
    capsys.readouterr()
    assert generate("--output", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)  # type: ignore[attr-defined]


def test_a_run_generates_the_same_images_on_two_processes(
    base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--", "--model.sampler.num_steps", "3")
    line = ("--resume", base("score_sde"), "--n", "5", "--seed", "7", *CPU, "--output")
    assert generate(*line, tmp_path / "one", *steps) == 0
    assert in_two_processes(generate, *line, tmp_path / "two", *steps) == [0, 0]
    one = tree(tmp_path / "one")
    assert one == tree(tmp_path / "two")
    assert {*one} == {
        *(f"images/{number:06d}.png" for number in range(5)),
        *("images.parquet", "contact_sheet.png", "settings.json"),
    }
    table = pd.read_parquet(tmp_path / "one" / "images.parquet")
    assert table["seed"].tolist() == [7, 8, 9, 10, 11]
    assert table["prompt"].isna().all()
    assert generate(*line, tmp_path / "one", *steps[:-1], "4") == 2
    error = capsys.readouterr().err
    assert "num_steps 3, and this run has 4: choose another --output" in error
    assert tree(tmp_path / "one") == one
    # an image depends only on its seed
    assert generate(*line[:2], "--seed", "9", *CPU, "--output", tmp_path / "third", *steps) == 0
    pixels = [np.asarray(Image.open(tmp_path / name)) for name in ("one/images/000002.png", "third/images/000000.png")]
    np.testing.assert_array_equal(*pixels)
    assert np.asarray(Image.open(tmp_path / "one/images/000001.png")).tolist() != pixels[0].tolist()
    said = text_of(tmp_path / "one/images/000002.png")
    assert said["seed"] == "9"
    assert json.loads(said["settings"])["model"].endswith("ScoreSDE")


@pytest.mark.parametrize("skip", [None, 1])
def test_a_pipeline_generates_what_diffusers_alone_generates(
    skip: int | None, text_to_image: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    (tmp_path / "prompts.txt").write_text("a çat\n\ndog\n", encoding="utf-8")
    line = ["--pipeline", text_to_image, "--prompts", tmp_path / "prompts.txt", "--n", "2", "--seed", "3", *CPU]
    line += ["--steps", "2", "--guidance", "4", "--negative_prompt", "grey", "--output", tmp_path / "out"]
    line += [] if skip is None else ["--clip_skip", str(skip)]
    assert generate(*line) == 0
    alone: Any = StableDiffusionPipeline.from_pretrained(text_to_image, safety_checker=None)
    alone.set_progress_bar_config(disable=True)
    vars(alone.text_encoder).setdefault("text_model", alone.text_encoder)  # as diffusers 0.42 expects
    for number, (seed, prompt) in enumerate([(3, "a çat"), (4, "a çat"), (5, "dog"), (6, "dog")]):
        expected = alone(
            prompt, num_inference_steps=2, guidance_scale=4.0, negative_prompt="grey",
            generator=torch.Generator().manual_seed(seed), clip_skip=skip,
        ).images[0]  # fmt: skip
        path = tmp_path / f"out/images/{number:06d}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(expected))
        said = text_of(path)
        assert (said["prompt"], said["seed"]) == (prompt, str(seed))
        assert json.loads(said["settings"])["negative_prompt"] == "grey"
    table = pd.read_parquet(tmp_path / "out/images.parquet")
    assert table["prompt"].tolist() == ["a çat", "a çat", "dog", "dog"]
    assert table["file"].tolist() == [f"images/{number:06d}.png" for number in range(4)]


def test_pairs_stand_side_by_side(base: Base, tmp_path: Path) -> None:
    line = ("--resume", base("golden_noise"), *CPU, "--prompts", "3", "5", "--n", "2", "--steps", "2")
    assert generate(*line, "--pairs", "--output", tmp_path / "pairs") == 0
    assert generate(*line, "--output", tmp_path / "plain", "--", "--model.start", "standard") == 0
    assert generate(*line, "--output", tmp_path / "golden") == 0
    names = [f"{number:06d}.png" for number in range(4)]
    for folder, alone in (("standard", "plain"), ("images", "golden")):
        for name in names:
            paths = (tmp_path / "pairs" / folder / name, tmp_path / alone / "images" / name)
            np.testing.assert_array_equal(*(np.asarray(Image.open(path)) for path in paths))
    assert generate(*line, "--batch_size", "3", "--output", tmp_path / "batches") == 0
    for number, name in enumerate(names):
        first, second = (np.asarray(Image.open(tmp_path / place / "images" / name)) for place in ("golden", "batches"))
        np.testing.assert_allclose(first.astype(int), second.astype(int), atol=1)
        assert text_of(tmp_path / "batches/images" / name)["seed"] == str(number)
    assert [text_of(tmp_path / "pairs/images" / name)["prompt"] for name in names] == ["3", "3", "5", "5"]
    table = pd.read_parquet(tmp_path / "pairs/images.parquet")
    assert table["prompt_index"].tolist() == [0, 0, 1, 1]
    assert table["standard_file"].tolist() == [f"standard/{name}" for name in names]


def test_a_class_conditional_pipeline_generates_classes_on_two_processes(tmp_path: Path) -> None:
    folder = save_dit(tmp_path, stochastic=True)
    line = ("--pipeline", folder, "--classes", "1", "7", "--n", "2", "--seed", "3", "--steps", "2", *CPU, "--output")
    assert generate(*line, tmp_path / "one") == 0
    assert in_two_processes(generate, *line, tmp_path / "two") == [0, 0]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    table = pd.read_parquet(tmp_path / "one" / "images.parquet")
    assert table["class"].tolist() == [1, 1, 7, 7]
    assert text_of(tmp_path / "one/images/000002.png")["class"] == "7"


@pytest.mark.nightly
def test_a_trained_classifier_guides_a_trained_score_model(base: Base, tmp_path: Path) -> None:
    quick = ("--trainer.max_epochs", "1", "--trainer.callbacks", "[]", "--trainer.enable_progress_bar", "false")
    config = CONFIGS / "score_sde/digits_classifier.yaml"
    run("fit", "--config", config, "--run_directory", tmp_path / "classifier", *quick)
    conditional = yaml.safe_load((CONFIGS / "score_sde/digits_class_conditional.yaml").read_text())
    guidance = conditional["model"]["init_args"]["guidance"]
    guidance["init_args"]["classifier"]["init_args"]["path"] = str(tmp_path / "classifier/checkpoints/last.ckpt")
    line = ("--resume", base("score_sde"), "--classes", "3", "5", "--seed", "7", *CPU, "--output", tmp_path / "out")
    overrides = ("--", "--model.sampler.num_steps", "20", "--model.guidance", json.dumps(guidance))
    assert generate(*line, *overrides) == 0
    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert table["class"].tolist() == [3, 5]
    assert generate(*line[:2], "--classes", "10", *CPU, "--output", tmp_path / "none", *overrides) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "a cat"], "--prompts: not an option of ScoreSDE"),
        (["--classes", "3"], "--classes: ScoreSDE is not conditioned on classes"),
        (["--steps", "2", "--height", "8"], "--steps, --height: not an option of ScoreSDE"),
        (["--n", "1000000000"], "1000000000 images are requested, but one call may generate at most 5000000"),
        (["--prompts", "missing.txt"], "no prompts at missing.txt"),
        (["--prompts", "a", "--classes", "1"], "give --prompts or --classes, not both"),
        (["--dtype", "float16"], "--dtype: only for --pipeline; a run has its own settings"),
        (["--strength", "0.5"], "--strength needs --image"),
    ],
)
def test_a_wrong_option_of_a_run_is_one_sentence(
    base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    accelerator = () if "--accelerator" in words else CPU
    is_rejected(tmp_path, capsys, message, "--resume", base("score_sde"), *accelerator, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pipeline", "missing/folder/x"], "no pipeline at missing/folder/x"),
        (["--pipeline", "EMPTY"], "model_index.json, as save_pretrained writes it"),
        (["--pipeline", "EMPTY", "--", "--model.a", "1"], "arguments after `--` apply only to a run"),
        (["--pipeline", "EMPTY", "--checkpoint", "best"], "--checkpoint and arguments after"),
        (["--pipeline", "EMPTY", "--mask", "a.png"], "--mask needs --image"),
        (["--pipeline", "EMPTY", "--prompts", "EMPTY/prompts.txt"], "prompts.txt has no prompt"),
        (["--resume", "EMPTY"], "cannot be resumed"),
    ],
)
def test_a_wrong_source_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "prompts.txt").write_text(" \n")
    is_rejected(tmp_path, capsys, message, *CPU, *(word.replace("EMPTY", str(tmp_path)) for word in words))


@pytest.mark.nightly
def test_killed_processes_of_a_group_continue(base: Base, tmp_path: Path) -> None:
    """Two processes of the command are killed by SIGKILL during generation; two torchrun processes complete it."""
    line = [str(word) for word in ("generate", "--resume", base("score_sde"), "--num_images", "40", *CPU, "--output")]
    steps = ("--", "--model.sampler.num_steps", "100")
    command.run(*line, tmp_path / "alone", *steps)
    expected = tree(tmp_path / "alone")
    process = command.start(*line, tmp_path / "two", "--devices", "2", *steps)
    images = tmp_path / "two/images"
    deadline = time.monotonic() + 120
    while len([*images.glob("0*.png")]) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 5 <= len([*images.glob("0*.png")]) < 40
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    said = command.run(*line, tmp_path / "two", *steps, launcher=torchrun)
    assert said.count("40 images are written to") == 1
    assert tree(tmp_path / "two") == expected
    command.run(*line, tmp_path / "both", "--devices", "2", *steps)
    assert tree(tmp_path / "both") == expected


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("config", "words", "folders"),
    [
        ("one_more_step/demo", ["--prompts", "bright", "dark", "--pairs", "--steps", "3"], {"images", "plain"}),
        ("finetuning/demo", ["--n", "2", "--steps", "2"], {"images"}),
        ("meco/digits", ["--n", "2", "--batch_size", "2"], {"images"}),
    ],
)
def test_every_generator_writes_a_folder(tmp_path: Path, config: str, words: list[str], folders: set[str]) -> None:
    quick = ("--trainer.max_epochs", "1", "--trainer.callbacks", "[]", "--trainer.enable_progress_bar", "false")
    run("fit", "--config", f"configs/{config}.yaml", "--run_directory", tmp_path / "run", *quick)
    assert generate("--resume", tmp_path / "run", *CPU, *words, "--output", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == folders
    for folder in folders:
        images = [np.asarray(Image.open(tmp_path / f"out/{folder}/00000{number}.png")) for number in range(2)]
        assert (images[0] != images[1]).any()


def test_a_fine_tuned_run_samples_the_size_of_its_training_images(
    text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TextToImage(str(text_to_image), tuning="lora")  # a pipeline of 16 x 16 pixels
    data = CaptionedImages(BrightDigits(image_size=24))
    trainer = SimpleNamespace(precision="32-true", datamodule=None)
    parsed = SimpleNamespace(grammar=SimpleNamespace(config_dump={"model": {}}))
    built = SimpleNamespace(model=tuning(network), trainer=trainer, datamodule=data, parsed=parsed)
    monkeypatch.setattr(DiffusionFineTuning, "trainer", None, raising=False)
    monkeypatch.setattr("experiments.load_run.load_built", lambda *_: built)
    line_of = ("--resume", "run", "--prompts", "a", "--steps", "1", *CPU, "--output")
    for options, size in (((), (24, 24)), (("--width", "32"), (24, 32)), (("--height", "8"), (8, 24))):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert generate(*line_of, output, *options) == 0
        assert Image.open(output / "images/000000.png").size == size[::-1]
        recorded = json.loads((output / "settings.json").read_text())
        assert (recorded["height"], recorded["width"]) == size


def test_two_calls_do_not_write_to_one_output(
    text_to_image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--pipeline", text_to_image, "--prompts", "a", "--steps", "1", *CPU, "--output", tmp_path / "out"]
    with owned_path(tmp_path / "out" / "images"):
        assert generate(*line) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/out/images is in use by process {os.getpid()} on " in error
    assert "wait for it to end, or choose another --output" in error
    assert not list((tmp_path / "out").rglob("*"))
    assert generate(*line) == 0
