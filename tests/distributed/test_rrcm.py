"""rRCM in two processes, whose negatives come from both, gives what one process gives."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.command import ROOT, run


def written(settings: dict[str, Any], path: Path) -> Path:
    """Two epochs of global batches of 101 images in double precision, the last one uneven, by plain descent."""
    settings["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}}
    settings["data"]["init_args"]["batch_size"] = 101
    settings["trainer"] |= {"max_epochs": 2, "precision": "64-true", "log_every_n_steps": 1, "callbacks": []}
    settings["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    path.write_text(yaml.safe_dump(settings))
    return path


def pretraining(path: Path) -> Path:
    """Without BatchNorm, whose statistics are of each process's share."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs/rrcm/demo.yaml").read_text())
    settings["model"]["class_path"] = "tests.distributed.indexed_noise.IndexedNoise"
    arguments = settings["model"]["init_args"]
    arguments["projector"]["init_args"]["batch_norm"] = False
    arguments["first_view"] = {"class_path": "torch.nn.Identity"}
    arguments["second_view"] = {"class_path": "tests.distributed.indexed_noise.Mirrored"}
    arguments["gradient_clip"] = 0.5
    settings["data"]["init_args"]["images"]["init_args"]["train_size"] = (
        331  # 101, 101, 101 and 28: 51 + 50, and 14 + 14
    )
    return written(settings, path)


def finetuning(path: Path) -> Path:
    """Noise is drawn by each process for itself, so its level is far below rounding."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs/rrcm/demo_finetuning.yaml").read_text())
    settings["model"]["init_args"] |= {"sigma": 1e-13, "layer_decay": 0.5}
    settings["data"] = {
        "class_path": "datamodules.classification.labelled_images.LabelledImages",
        "init_args": {
            "images": {"class_path": "datamodules.classification.digits.Digits", "init_args": {"train_size": 330}}
        },
    }  # 27 are left over
    return written(settings, path)


def numbers(path: Path) -> list[dict[str, float | None]]:
    with path.open() as file:
        return [{k: float(v) if v else None for k, v in row.items() if k != "metric"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("stage", [pretraining, finetuning])
def test_two_processes_equal_one(stage: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = ("fit", "--config", stage(tmp_path / "short.yaml"), "--test_after_fit", "true")
    run(*settings, "--run_directory", one)
    run(*settings, "--run_directory", two, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    weights, others = (
        torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for directory in (one, two)
    )
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-10, msg=name)
    for table in ("metrics.csv", "test_metrics.csv"):
        for row, other in zip(numbers(one / table), numbers(two / table), strict=True):
            assert row == pytest.approx(other, abs=1e-6, nan_ok=True), table
