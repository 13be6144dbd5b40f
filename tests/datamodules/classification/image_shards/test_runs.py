"""A method with per-sample state is trained from shards: on two ranks, and after a kill within an epoch."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.command import ROOT
from tests.conformance.runs import assert_alike, run, state
from tests.datamodules.classification.image_shards.shards import write_shards
from tests.two_processes import FORK, in_two_processes

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("no_pictures")]
SIZES = "{in_features: 192, hidden_features: [16], out_features: 3}"
NETWORK = f"{{class_path: lightning_modules.networks.mlp.MLP, init_args: {SIZES}}}"
NOISE = "{class_path: datamodules.corruptions.label_noise.Symmetric, init_args: {noise_rate: 0.4}}"


def command(folder: Path, kind: str, output: str) -> list[str | Path]:
    """Return a command that trains on 60 samples in four shards, in batches of 11 and a last batch of 5."""
    own = kind.split()[-1]
    if not any(folder.glob("train-*")):
        write_shards(folder, own, "train", per_class=20, each=16)
        write_shards(folder, own, "test")
    cache = ["--data.images.cache_dir", str(folder / "cache")] if kind.startswith("cached") else []
    return [
        *("fit", "--config", str(ROOT / "configs/own_data/shards.yaml"), "--data.images.data_dir", str(folder), *cache),
        *("--data.images.num_classes", "3", "--data.images.image_size", "8", "--data.split.validation_fraction", "0"),
        *("--data.images.train", "train-*", "--data.images.test", "test-*", "--data.batch_size", "11"),
        *("--data.label_noise", NOISE, "--data.loading.num_workers", "2"),
        *("--model.network", NETWORK, "--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.05}}"),
        *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--trainer.precision", "64-true"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--checkpoint.every_n_steps", "4", "--run_directory", folder / output),
    ]


def same(one: Path, two: Path) -> None:
    first, second = state(one), state(two)
    for key in ("state_dict", "targets", "global_step"):
        assert_alike(first[key], second[key], key, 1e-10)
    assert (one / "labels.csv").read_bytes() == (two / "labels.csv").read_bytes()


@pytest.mark.parametrize("kind", ["tar", "cached tar", "parquet", "cached parquet"])
def test_two_ranks_equal_one(kind: str, tmp_path: Path) -> None:
    run(*command(tmp_path, kind, "one"), "--test_after_fit", "true")
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--test_after_fit", "true")
    in_two_processes(run, *command(tmp_path, kind, "two"), *more)
    same(tmp_path / "one", tmp_path / "two")


def killed_at(step: int, *arguments: str | Path) -> None:
    """Kill the run at a given optimizer step."""
    os.setpgid(0, 0)
    taken, original = [0], torch.optim.SGD.step

    def counted(*given: object, **options: object) -> object:
        taken[0] += 1
        if taken[0] == step:
            os.killpg(0, signal.SIGKILL)  # includes the loader's workers
        return original(*given, **options)

    torch.optim.SGD.step = counted  # type: ignore[assignment,method-assign]
    run(*arguments)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_run_that_is_killed_within_an_epoch_ends_where_the_whole_one_does(kind: str, tmp_path: Path) -> None:
    run(*command(tmp_path, kind, "whole"))
    process = FORK.Process(target=killed_at, args=(11, *command(tmp_path, kind, "killed")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = torch.load(tmp_path / "killed" / "checkpoints" / "step.ckpt", weights_only=True)
    assert kept["global_step"] == 8  # an epoch has six batches
    run("fit", "--resume", tmp_path / "killed")
    same(tmp_path / "whole", tmp_path / "killed")
    for table in ("metrics.csv", "early_learning.csv"):
        if (tmp_path / "whole" / table).is_file():
            assert (tmp_path / "whole" / table).read_bytes() == (tmp_path / "killed" / table).read_bytes()
