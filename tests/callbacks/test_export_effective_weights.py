"""Exported files contain the effective weights of the network and can be loaded without this project."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from callbacks.export_effective_weights import ExportEffectiveWeights


class Baked(LightningModule):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def effective_weights(self) -> Any:
        return {"fc.weight": torch.full((2, 3), self.value).T}, {"fc": {"pattern": "1:2"}}


def trainer_in(directory: Path | None, first: bool = True) -> Any:
    return SimpleNamespace(log_dir=directory and str(directory), is_global_zero=first)


def test_weights_are_written_after_training_and_after_the_first_test(tmp_path: Path) -> None:
    callback = ExportEffectiveWeights()
    callback.setup(trainer_in(tmp_path), Baked(0.0), "fit")
    callback.on_fit_end(trainer_in(tmp_path, first=False), Baked(0.0))
    callback.on_fit_end(trainer_in(None), Baked(0.0))
    assert not list(tmp_path.iterdir())
    for hook, value, written in (
        (callback.on_fit_end, 1, 1),
        (callback.on_test_end, 2, 2),
        (callback.on_test_end, 3, 2),
    ):
        hook(trainer_in(tmp_path), Baked(value))
        assert load_file(tmp_path / "effective_weights" / "model.safetensors")["fc.weight"].equal(
            torch.full((3, 2), float(written))
        )
    assert json.loads((tmp_path / "effective_weights" / "model.json").read_text()) == {
        "layers": {"fc": {"pattern": "1:2"}}
    }
