"""Progress bar of a run, with the loss, samples per second, a validation metric, and the remaining time of the run."""

import math
import re
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.text import Text

from experiments.results import duration, validation_metric
from experiments.throughput import Throughput

SECONDS = 0.5
"""Seconds between two reads of the loss. Each read makes the host wait for the device."""


class WholeRun(RichProgressBar):
    """Progress bar with the last step's loss, the last validation metric, and the remaining time of the whole run.

    The trainer's callback `Throughput` measures the time and the samples per second over all ranks.

    Args:
        monitor: validation metric to show. None selects a metric automatically.
        given_labels: whether validation labels are noisy. If true, the displayed name of the metric says so.
    """

    def __init__(self, monitor: str | None = None, given_labels: bool = False) -> None:
        super().__init__()
        self.monitor = monitor
        self.given_labels = given_labels
        self._loss: torch.Tensor | None = None
        self._shown: dict[str, int | str | float | dict[str, float]] = {}
        self._looked = -math.inf
        self._rate: float | None = None

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Select columns that fit next to the metrics in a terminal with 80 characters per line."""
        _, _, batches, *_ = super().configure_columns(trainer)
        return [
            StageColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=16),
            batches,
            TimeLeft(self),
        ]

    @property
    def throughput(self) -> Throughput | None:
        """The callback of the run that measures its speed."""
        return next((each for each in self.trainer.callbacks if isinstance(each, Throughput)), None)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        if time.monotonic() - self._looked > SECONDS or trainer.validating or trainer.fit_loop.epoch_loop.done:
            self._looked = time.monotonic()
            self._shown = dict(trainer.progress_bar_metrics)
            if isinstance(self._loss, torch.Tensor):
                self._shown["loss"] = self._loss.item()
            if self.throughput is not None and not trainer.validating:
                self._rate = self.throughput.recent_rate()
            if self._rate is not None:
                self._shown["samples/s"] = self._rate
            if name := validation_metric(trainer.callback_metrics, self.monitor):
                note = " on given labels" if self.given_labels else ""
                self._shown[name + note] = trainer.callback_metrics[name].item()
        return self._shown


class StageColumn(TextColumn):
    """Column with the stage and the epoch. The total number of epochs is shown only if it limits the run."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.plain = re.sub(r"/-\d+", "", text.plain)
        return text


class TimeLeft(ProgressColumn):
    """Column with the remaining time: of the whole run during training, and otherwise of the current stage."""

    max_refresh = SECONDS

    def __init__(self, bar: WholeRun) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        trainer, throughput = self.bar.trainer, self.bar.throughput
        if throughput is not None and trainer.state.fn == "fit":
            return Text(f"{duration(throughput.seconds_left(trainer))} left")
        return Text(f"{duration(task.time_remaining)} left")
