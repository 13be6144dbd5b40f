"""Every Lightning callback, given once or twice, works with a run's own callbacks or is rejected in one sentence."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks as lightning_callbacks
import pytest

import train
from experiments.run_directory import read_checkpoint

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
TINY = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--trainer.limit_train_batches", "3", "--test_after_fit")
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "EarlyStopping": {"monitor": "train/loss"},
    "StochasticWeightAveraging": {"swa_lrs": 0.1},
    "Timer": {"duration": "00:00:10:00"},
    "GradientAccumulationScheduler": {"scheduling": {"0": 2}},
    "ModelPruning": {"pruning_fn": "l1_unstructured", "amount": 0.1},
    "BasePredictionWriter": {"write_interval": "batch"},
    "OnExceptionCheckpoint": {"dirpath": "{}/exception"},
    "ThroughputMonitor": {"batch_size_fn": "builtins.len"},
}
REJECTED = {
    "BackboneFinetuning": "needs a module with an attribute backbone, and CrossEntropy has none",
    "BaseFinetuning": "does nothing by itself",
    "BatchSizeFinder": "would change the batch size, which is part of the experiment",
    "LearningRateFinder": "needs a module with an attribute lr",
    "SpikeDetection": "fails in this version of Lightning when a checkpoint is saved",
    "StochasticWeightAveraging": "does not put its average into tested or resumed checkpoints",
}
ALONE = {  # at most one callback of each kind is allowed
    *("EMAWeightAveraging", "EarlyStopping", "ModelCheckpoint", "Timer", "WeightAveraging"),
    *("ProgressBar", "RichProgressBar", "TQDMProgressBar"),
}
BY_DEFAULT = {*REJECTED, "ModelCheckpoint", "Timer"}


def fit(directory: Path, *callbacks: tuple[str, Mapping[str, Any]], epochs: int = 1) -> int:
    """Train with the Lightning callbacks that the names and arguments specify."""
    given: list[str] = []
    for name, arguments in callbacks:
        spec = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}
        given += ["--trainer.callbacks+", json.dumps(spec).replace("{}/", f"{directory}/")]
    quiet = () if any("ProgressBar" in name for name, _ in callbacks) else QUIET
    run = ("true", "--run_directory", str(directory), "--trainer.max_epochs", str(epochs))
    return train.main([*TINY, *run, *quiet, *given])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.nightly)
        for name in sorted(lightning_callbacks.__all__)
    ],
)
def test_a_callback_of_lightning_works_or_is_rejected(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = name, NEEDS.get(name, {})
    assert fit(tmp_path / "alone", given) == (name in REJECTED)
    if name in REJECTED:
        assert f"trainer.callbacks: {name} {REJECTED[name]}" in error(capsys)
    else:
        assert (tmp_path / "alone/test_metrics.csv").is_file()
    assert fit(tmp_path / "twice", given, given) == (name in REJECTED or name in ALONE)
    if name in REJECTED or name in ALONE:
        assert re.search(f"{name}|only one progress bar is supported", error(capsys))


@pytest.mark.parametrize(
    ("arguments", "saved", "later"),
    [
        (
            {"every_n_train_steps": 2, "save_top_k": -1, "filename": "{step}"},
            ["step=2", "step=4", "step=6"],
            ["step=8"],
        ),
        ({"monitor": "val/accuracy", "mode": "max", "save_last": True, "filename": "best"}, ["best", "last"], []),
    ],
)
def test_a_users_checkpoints_lie_apart_from_the_runs_own(
    arguments: Mapping[str, Any], saved: list[str], later: list[str], tmp_path: Path
) -> None:
    assert fit(tmp_path, ("ModelCheckpoint", arguments), epochs=2) == 0
    assert sorted(path.stem for path in (tmp_path / "checkpoints/own").iterdir()) == saved
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.ckpt")) == ["best", "last"]
    for subcommand in ("test", "predict"):
        assert train.main([subcommand, "--resume", str(tmp_path), *QUIET]) == 0
    assert train.main(["fit", "--resume", str(tmp_path), "--trainer.max_epochs", "3", *QUIET]) == 0
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"] == 9
    assert sorted(path.stem for path in (tmp_path / "checkpoints/own").iterdir()) == saved + later


def test_two_checkpoints_of_the_users_that_differ_are_both_saved(tmp_path: Path) -> None:
    names = ("train/loss", "val/accuracy")
    given = [("ModelCheckpoint", {"monitor": name, "filename": name.replace("/", "_")}) for name in names]
    assert fit(tmp_path, *given) == 0
    assert {path.stem for path in (tmp_path / "checkpoints/own").iterdir()} == {"train_loss", "val_accuracy"}
