"""Shortened runs of the methods' demos, in the test process."""

import csv
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._pytree import tree_flatten

import train
from experiments.calls.parse import CALL_ONLY, parse
from experiments.config_files import base_of, dump_yaml, load_yaml
from experiments.config_files import settings_of as stated
from tests.command import ROOT
from tests.distributed.methods import METHODS, Method, changed

SHORT = {"trainer.enable_progress_bar": False, "trainer.enable_model_summary": False, "trainer.log_every_n_steps": 1}
CONFIGS = ROOT / "configs"


def methods() -> dict[str, Method]:
    """Return all rows of `methods.py`, and a row for each demo that has none."""
    rows = {method.config for method in METHODS.values()}
    demos = {path.parent.name: f"{path.parent.name}/demo" for path in sorted(CONFIGS.glob("*/demo.yaml"))}
    return METHODS | {name: Method(config) for name, config in demos.items() if config not in rows}


def class_path(method: Method) -> str:
    """Return the class path of the module that a row trains."""
    own = method.short.get("model.class_path") or method.short.get("model", {}).get("class_path")
    return own or stated(CONFIGS / f"{method.config}.yaml")["model.class_path"]


def settings_of(path: Path) -> dict[str, Any]:
    """Read a configuration; resolve one with a base as the command line does."""
    if base_of(path) is None:
        return load_yaml(path.read_text())
    parsed = parse(["fit", "--config", str(path)])
    settings = load_yaml(parsed.grammar.parser.dump(parsed.config, skip_validation=True))["fit"]
    return {key: value for key, value in settings.items() if key not in CALL_ONLY}


def written(name: str, directory: Path, more: Mapping[str, Any] = {}) -> Path:
    """Write a method's demo with the changes of its row and of the caller, and return the path."""
    method = methods()[name]
    settings = settings_of(CONFIGS / f"{method.config}.yaml")
    changed(settings, {"trainer.max_epochs": 2, **SHORT, **method.short, **more})
    path = directory / f"{name}.yaml"
    path.write_text(dump_yaml(settings))
    return path


class Beginning(Callback):
    """Writes the initial weights and the first batch to `beginning.pt` in the run directory."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == trainer.current_epoch == batch_idx == 0:
            numbers, _ = tree_flatten((pl_module.state_dict(), batch))
            kept = [each.double().nan_to_num() for each in numbers if isinstance(each, torch.Tensor)]
            torch.save(kept, Path(trainer.log_dir or "", "beginning.pt"))


def run(*arguments: str | Path) -> None:
    """Run `train.py` in this process."""
    assert train.main([str(argument) for argument in arguments]) == 0


def state(directory: Path) -> dict[str, Any]:
    """Read the last checkpoint."""
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def rows(path: Path) -> list[dict[str, Any]]:
    """Read a table, with numeric columns converted to numbers."""

    def value(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open() as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def tables(directory: Path) -> dict[str, Path]:
    """Return the tables that a run has written, without its times and folders that are named by a hash."""
    found = (
        path for path in sorted(directory.rglob("*.csv")) if "_rows/" not in str(path) and path.name != "usage.csv"
    )
    return {str(path.relative_to(directory)): path for path in found}


def losses(directory: Path) -> list[float]:
    """Read the logged training losses."""
    logged = [row.get("train/loss", row.get("train/loss_epoch")) for row in rows(directory / "metrics.csv")]
    return [loss for loss in logged if isinstance(loss, float) and not math.isnan(loss)]


def assert_alike(one: Any, other: Any, where: str, accuracy: float = 0.0) -> None:
    """Compare the contents of checkpoints; bit by bit if no accuracy is given."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}.{key}", accuracy)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for position, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{where}[{position}]", accuracy)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(other, one, rtol=0, atol=accuracy, equal_nan=True, msg=where)
    elif isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=0, abs=accuracy, nan_ok=True), where
    elif not (isinstance(one, str) and "checkpoints" in one):  # the run directories differ
        assert one == other, where


def killed_at(step: int, *arguments: str | Path) -> None:
    """Kill the run at a given step of SGD."""
    os.setpgid(0, 0)
    taken, original = [0], torch.optim.SGD.step

    def counted(*given: object, **options: object) -> object:
        taken[0] += 1
        if taken[0] == step:
            os.killpg(0, signal.SIGKILL)  # includes the loader's workers
        return original(*given, **options)

    torch.optim.SGD.step = counted  # type: ignore[assignment,method-assign]
    run(*arguments)
