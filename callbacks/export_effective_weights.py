"""Export a network's effective weights, that is, the weights that layers compute from the trained parameters."""

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file

from datamodules.files.whole_files import whole_file, write_text
from lightning_modules.interfaces import EffectiveNetwork, require


class ExportEffectiveWeights(Callback):
    """Write `effective_weights/model.safetensors` and `model.json` to the run directory after training and testing.

    `model.safetensors` contains the weights used in testing, under the parameter names of the same network with
    ordinary layers. With this file, timm, transformers or torch compute the same logits without this project.
    `model.json` lists, for each layer, the patterns, bits and scales that were applied to its weights. If a run is
    tested twice (`checkpoint.also_test_best`), the files contain the weights of the first test, which uses the
    configured checkpoint.
    """

    def __init__(self) -> None:
        self.tested = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, EffectiveNetwork, "ExportEffectiveWeights")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.tested:
            self._write(trainer, pl_module)
        self.tested = True

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        if directory is None or not trainer.is_global_zero:
            return
        weights, layers = require(pl_module, EffectiveNetwork, "ExportEffectiveWeights").effective_weights()
        folder = Path(directory, "effective_weights")
        with whole_file(folder / "model.safetensors") as partial:
            save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, partial)
        write_text(folder / "model.json", json.dumps({"layers": layers}, indent=1) + "\n")
