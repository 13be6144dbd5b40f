"""Runs on aspect-ratio buckets, or on several datasets: two ranks equal one, and a killed run resumes exactly."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import ROOT
from tests.conformance.runs import killed_at, run, state
from tests.datamodules.image_folders import photograph, save
from tests.two_processes import FORK, in_two_processes

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("no_pictures")]


def several_sets(folder: Path) -> str:
    """Return settings of two datasets, which share images, and which have eight batches per epoch."""

    def images(**options: Any) -> dict[str, Any]:
        arguments = {"data_dir": str(folder / "images"), **options}
        return {"class_path": "datamodules.prompts.folder_sets.CaptionedFolder", "init_args": arguments}

    bucketed = images(image_size=16, buckets={"multiple": 4})
    sets = [{"images": bucketed, "prefix": "a "}, {"images": images(image_size=24), "repeats": 2, "weight": 0.5}]
    arguments = {"sets": sets}
    return json.dumps({"class_path": "datamodules.prompts.several_sets.SeveralSets", "init_args": arguments})


def command(
    pipeline: Path, folder: Path, cached: bool, output: str, prior: bool = False, several: bool = False
) -> list[str | Path]:
    """Return a command that trains on sixteen images in three buckets, in six batches of two or three per epoch."""
    for number in range(16):
        size = ((32, 20), (20, 20), (20, 30))[number % 3]
        save(folder / "images" / f"{number}.png", photograph(*size, number))
        (folder / "images" / f"{number}.txt").write_text(f"the {number}")
    images = {"folder": str(folder / "class"), "prompt": "the", "count": 5, "image_size": 16}
    chosen = {"class_path": "datamodules.prompts.class_images.ClassImages", "init_args": images}
    cache = str(folder / "cache" / output) if cached else "null"
    own = ("--data.images.data_dir", folder / "images", "--data.images.image_size", "16")
    own = ("--data.images", several_sets(folder)) if several else (*own, "--data.images.buckets.multiple", "4")
    return [
        *("fit", "--config", str(ROOT / "configs/finetuning/lora.yaml"), *own),
        *("--model.network.pipeline", pipeline, "--model.cache_dir", cache),
        *("--data.augmentation.flip", "true", "--data.validation_fraction", "0"),
        *("--model.caption_dropout", "0.3", "--data.loading.num_workers", "0", "--checkpoint.every_n_steps", "4"),
        *("--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}", "--model.average_decay", "0"),
        *(("--data.prior", json.dumps(chosen), "--model.sampling.steps", "2") if prior else ()),
        *("--trainer.max_epochs", "2", "--trainer.max_steps", "-1", "--trainer.accelerator", "cpu"),
        *("--trainer.precision", "32-true", "--trainer.callbacks", "[]", "--trainer.enable_progress_bar", "false"),
        *("--trainer.enable_model_summary", "false", "--run_directory", folder / output),
    ]


def weights(directory: Path) -> dict[str, Any]:
    found = state(directory)
    assert found["global_step"] >= 12
    return {name: value for name, value in found["state_dict"].items() if "lora_" in name}


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["buckets", "prior", "several"])
@pytest.mark.parametrize("cached", [False, True])
def test_two_ranks_equal_one(cached: bool, kind: str, text_to_image: Path, tmp_path: Path) -> None:
    further = {} if kind == "buckets" else {kind: True}
    run(*command(text_to_image, tmp_path, cached, "one", **further))
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    in_two_processes(run, *command(text_to_image, tmp_path, cached, "two", **further), *more)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("several", [False, True])
def test_a_run_that_is_killed_within_an_epoch_ends_where_a_whole_one_does(
    several: bool, text_to_image: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cached": not several, "several": several}
    run(*command(text_to_image, tmp_path, output="whole", **options))
    process = FORK.Process(target=killed_at, args=(6, *command(text_to_image, tmp_path, output="killed", **options)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = torch.load(tmp_path / "killed" / "checkpoints" / "step.ckpt", weights_only=True)
    assert kept["global_step"] == 4  # of at least six batches per epoch
    run("fit", "--resume", tmp_path / "killed")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
