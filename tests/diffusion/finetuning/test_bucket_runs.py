"""Runs on aspect-ratio buckets with flips: two ranks give the same result as one, and a killed run resumes exactly."""

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


def command(pipeline: Path, folder: Path, cached: bool, output: str, prior: bool = False) -> list[str | Path]:
    """Return a command that trains on sixteen images in three buckets, in six batches of two or three per epoch."""
    for number in range(16):
        size = ((32, 20), (20, 20), (20, 30))[number % 3]
        save(folder / "images" / f"{number}.png", photograph(*size, number))
        (folder / "images" / f"{number}.txt").write_text(f"the {number}")
    images = {"folder": str(folder / "class"), "prompt": "the", "count": 5, "image_size": 16}
    chosen = {"class_path": "datamodules.prompts.class_images.ClassImages", "init_args": images}
    cache = str(folder / "cache" / output) if cached else "null"
    return [
        *("fit", "--config", str(ROOT / "configs/finetuning/lora.yaml"), "--data.images.data_dir", folder / "images"),
        *("--model.network.pipeline", pipeline, "--model.cache_dir", cache, "--data.images.image_size", "16"),
        *("--data.images.buckets.multiple", "4", "--data.augmentation.flip", "true", "--data.validation_fraction", "0"),
        *("--model.caption_dropout", "0.3", "--data.loading.num_workers", "0", "--checkpoint.every_n_steps", "4"),
        *("--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}", "--model.average_decay", "0"),
        *(("--data.prior", json.dumps(chosen), "--model.sampling.steps", "2") if prior else ()),
        *("--trainer.max_epochs", "2", "--trainer.max_steps", "-1", "--trainer.accelerator", "cpu"),
        *("--trainer.precision", "32-true", "--trainer.callbacks", "[]", "--trainer.enable_progress_bar", "false"),
        *("--trainer.enable_model_summary", "false", "--run_directory", folder / output),
    ]


def weights(directory: Path) -> dict[str, Any]:
    found = state(directory)
    assert found["global_step"] == 12
    return {name: value for name, value in found["state_dict"].items() if "lora_" in name}


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("cached", "prior"), [(False, False), (True, False), (False, True), (True, True)])
def test_two_ranks_equal_one(cached: bool, prior: bool, text_to_image: Path, tmp_path: Path) -> None:
    run(*command(text_to_image, tmp_path, cached, "one", prior))
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    in_two_processes(run, *command(text_to_image, tmp_path, cached, "two", prior), *more)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_run_that_is_killed_within_an_epoch_ends_where_a_whole_one_does(text_to_image: Path, tmp_path: Path) -> None:
    run(*command(text_to_image, tmp_path, True, "whole"))
    process = FORK.Process(target=killed_at, args=(6, *command(text_to_image, tmp_path, True, "killed")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = torch.load(tmp_path / "killed" / "checkpoints" / "step.ckpt", weights_only=True)
    assert kept["global_step"] == 4  # of six batches per epoch
    run("fit", "--resume", tmp_path / "killed")
    assert_same(tmp_path / "whole", tmp_path / "killed")
