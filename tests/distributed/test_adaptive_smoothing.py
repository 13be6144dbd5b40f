"""Training a mixing network and drawing its curve: two processes give what one process gives."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.command import ROOT, run


def short(directory: Path) -> Path:
    """The demo without its first stages, in two epochs of global batches of 101 images, the last one of 88.

    Attacks in training are drawn by each process for itself, so their budget is far below rounding; those of the
    callbacks keep their own.
    """
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "adaptive_smoothing" / "demo.yaml").read_text())
    descent = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}}  # Adam would enlarge what is below rounding
    settings["model"]["init_args"] |= {"epsilon": 1e-13, "attack_steps": 2, "optimizer": descent}
    settings["data"]["init_args"]["batch_size"] = 101
    settings["trainer"] |= {"max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [one for one in settings["trainer"]["callbacks"] if "Pretraining" not in one["class_path"]]
    for callback in callbacks:
        callback["init_args"]["batch_size"] = 150
    settings["trainer"]["callbacks"] = callbacks
    callbacks[-1]["init_args"]["alphas"] = [0.3, 0.8]
    path = directory / "short.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def rows(path: Path) -> list[dict[str, str | float | None]]:
    def value(text: str) -> str | float | None:
        try:
            return float(text) if text else None
        except ValueError:
            return text

    with path.open() as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = ("fit", "--config", short(tmp_path), "--trainer.precision", "64-true", "--test_after_fit", "true")
    run(*settings, "--run_directory", one)
    run(*settings, "--run_directory", two, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    weights, others = (
        torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for directory in (one, two)
    )
    assert weights.keys() == others.keys()
    assert weights["network.normalization.running_mean"] != 0
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-10, equal_nan=True, msg=name)
    for table in ("metrics.csv", "test_metrics.csv", "alpha_curve.csv"):
        first, second = rows(one / table), rows(two / table)
        assert len(first) == len(second) > 0
        for row, other in zip(first, second, strict=True):
            assert row == pytest.approx(other, abs=1e-6, nan_ok=True), table
    assert (two / "figures" / "alpha_curve.png").is_file()
