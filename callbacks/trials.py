"""End a bad trial of `train.py tune` at validation, and mark the end of its training."""

import csv
import math
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.files.whole_files import write_text
from lightning_modules.interfaces import GivenLabels

LIMITS = ".limits.csv"
"""File in a run directory with the columns epoch and limit."""


class PruneTrial(Callback):
    """End training if the best value of a metric so far is worse than the limit of the epoch.

    `train.py tune` writes the limits to the run directory before the run starts, and adds this callback. Therefore, no
    process has to watch the run, and a run ends at the same epoch on any launcher. The file `trained.csv` marks the end
    of training. It contains whether training was ended here (`pruned`), and whether label noise is added to the
    validation labels.

    Args:
        metric: metric that is logged at most once per epoch.
        mode: `max` if larger values are better, or `min`.
    """

    def __init__(self, metric: str, mode: Literal["min", "max"]) -> None:
        self.metric = metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.limits: dict[int, float] = {}
        self.best, self.pruned = -math.inf, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        path = Path(trainer.default_root_dir, LIMITS)
        if stage == "fit" and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.limits = {int(row["epoch"]): float(row["limit"]) for row in csv.DictReader(file)}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value, limit = trainer.callback_metrics.get(self.metric), self.limits.get(trainer.current_epoch)
        if value is not None:
            self.best = max(self.best, self.sign * float(value))  # NaN is never larger
        worse = value is not None and limit is not None and self.best < self.sign * limit
        if limit is not None and trainer.strategy.reduce_boolean_decision(worse, all=False):
            self.pruned = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        noisy = isinstance(data, GivenLabels) and data.adds_label_noise
        if trainer.is_global_zero:
            rows = f"metric,value\npruned,{int(self.pruned)}\nnoisy_validation_labels,{int(noisy)}\n"
            write_text(Path(trainer.default_root_dir, "trained.csv"), rows)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.pruned = state_dict["best"], state_dict["pruned"]
