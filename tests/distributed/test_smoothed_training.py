"""Training for randomised smoothing, and certification after it: two processes give what one process gives."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.command import ROOT, run


def short(config: str, directory: Path) -> Path:
    """The demo in two epochs of global batches of 101 images, the last one of 59, and few images to certify.

    Noise is drawn by each process for itself, so its level is far below rounding; certification keeps its own.
    """
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / config).read_text())
    descent = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}}  # Adam would enlarge what is below rounding
    settings["model"]["init_args"] |= {"sigma": 1e-13, "num_copies": 2, "optimizer": descent}
    settings["data"]["init_args"]["batch_size"] = 101
    settings["trainer"] |= {"max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False}
    settings["trainer"]["callbacks"][0]["init_args"]["skip"] = 50
    path = directory / "short.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def numbers(path: Path) -> list[dict[str, float | None]]:
    with path.open() as file:
        return [{k: float(v) if v else None for k, v in row.items() if k != "metric"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("config", ["consistency/demo.yaml", "drs/demo.yaml"])
def test_two_processes_equal_one(config: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = (
        "fit",
        "--config",
        short(config, tmp_path),
        "--trainer.precision",
        "64-true",
        "--test_after_fit",
        "true",
    )
    run(*settings, "--run_directory", one)
    run(*settings, "--run_directory", two, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    weights, others = (
        torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for directory in (one, two)
    )
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-10, msg=name)
    for table in ("metrics.csv", "test_metrics.csv"):
        rows = zip(numbers(one / table), numbers(two / table), strict=True)
        for row, other in rows:
            assert row == pytest.approx(other, abs=1e-6, nan_ok=True), table
    certificates = (one / "certification.csv").read_text()
    assert certificates.count("\n") == 11
    assert certificates == (two / "certification.csv").read_text()
