"""A run keeps its checkpoints, its table of metrics, and adds what a later test measures."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

import train
from experiments.results import read_test_metrics
from experiments.run_directory import add_test_metrics, latest_checkpoint, read_checkpoint, write_test_metrics

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def test_epoch_means_after_a_resume_inside_an_epoch_are_those_of_the_whole_run(tmp_path: Path) -> None:
    """The checkpoint is that of step 14, the fourth batch of ten of the second epoch."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    demo = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "3", "--checkpoint.every_n_steps", "14")
    assert train.main([*demo, "--run_directory", str(whole), *QUIET, "--trainer.max_steps", "16"]) == 0
    shutil.copytree(whole, resumed)
    (resumed / "checkpoints/last.ckpt").unlink()
    saved = read_checkpoint(resumed / "checkpoints/step.ckpt")
    assert saved["global_step"] == 14
    assert saved["metrics_table"]["means"]
    shutil.rmtree(whole)
    assert train.main([*demo, "--run_directory", str(whole), *QUIET]) == 0
    assert train.main(["fit", "--resume", str(resumed), *QUIET, "--trainer.max_steps", "-1"]) == 0
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    rows = [row for row in csv.DictReader((resumed / "metrics.csv").open()) if row["train/loss"]]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("last", "step", "newest"), [(10, 14, "step"), (20, 14, "last"), (None, 3, "step"), (3, None, "last")]
)
def test_a_run_goes_on_from_its_newest_checkpoint(
    last: int | None, step: int | None, newest: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, steps in {"last": last, "step": step, "best": 99}.items():
        if steps is not None:
            torch.save({"state_dict": {}, "global_step": steps}, tmp_path / f"checkpoints/{name}.ckpt")
    assert latest_checkpoint(tmp_path).stem == newest


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no checkpoints/last\.ckpt or step\.ckpt"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("factor", [1, 1 + 8e-6, 1 - 8e-6])
@pytest.mark.parametrize("value", [0.8, 3e-7, -12.5])
def test_a_later_test_that_rounds_otherwise_adds_its_metrics(value: float, factor: float, tmp_path: Path) -> None:
    write_test_metrics(tmp_path, {"test/acr": value, "test/zero": 0.0})
    add_test_metrics(tmp_path, {"test/acr": value * factor, "test/zero": 0.0, "test/new": 1.0})
    assert read_test_metrics(tmp_path / "test_metrics.csv") == {"test/acr": value, "test/new": 1.0, "test/zero": 0.0}
    assert not list(tmp_path.glob("test_metrics_*.csv"))


@pytest.mark.parametrize("factor", [1 + 1.2e-5, 1 - 1.2e-5, 2])
@pytest.mark.parametrize("value", [0.8, 3e-7, -12.5])
def test_a_later_test_that_measures_otherwise_is_kept_apart(value: float, factor: float, tmp_path: Path) -> None:
    write_test_metrics(tmp_path, {"test/acr": value})
    add_test_metrics(tmp_path, {"test/acr": value * factor, "test/new": 1.0})
    assert read_test_metrics(tmp_path / "test_metrics.csv") == {"test/acr": value}
    [other] = tmp_path.glob("test_metrics_*.csv")
    assert read_test_metrics(other) == {"test/acr": value * factor, "test/new": 1.0}
