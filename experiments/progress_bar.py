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
from experiments.throughput import Throughput, seconds_left, share_done

SECONDS = 0.5
"""Seconds between two reads of the loss. Each read makes the host wait for the device."""


class WholeRun(RichProgressBar):
    """Progress bar with the last step's loss, the last validation metric, and the remaining time of the whole run.

    If the trainer has the callback `Throughput`, the samples per second over all ranks are also shown.

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
            TimeLeft(self, trainer),
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started, self._done_before = time.monotonic(), share_done(trainer)

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
            self._rate = self._rate if trainer.validating else self._samples_per_second(trainer)
            if self._rate is not None:
                self._shown["samples/s"] = self._rate
            if name := validation_metric(trainer.callback_metrics, self.monitor):
                note = " on given labels" if self.given_labels else ""
                self._shown[name + note] = trainer.callback_metrics[name].item()
        return self._shown

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Estimate the remaining time of the whole run from the progress of this process."""
        return seconds_left(self._started, self._done_before, share_done(trainer))

    def _samples_per_second(self, trainer: Trainer) -> float | None:
        measured = [each for each in trainer.callbacks if isinstance(each, Throughput)]  # type: ignore[attr-defined]
        return measured[0].recent_rate() if measured else None


class StageColumn(TextColumn):
    """Column with the stage and the epoch. The total number of epochs is shown only if it limits the run."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.plain = re.sub(r"/-\d+", "", text.plain)
        return text


class TimeLeft(ProgressColumn):
    """Column with the remaining time: of the whole run during training, and otherwise of the current stage."""

    max_refresh = SECONDS

    def __init__(self, bar: WholeRun, trainer: Trainer) -> None:
        super().__init__()
        self.bar = bar
        self.trainer = trainer

    def render(self, task: Task) -> Text:
        fitting = self.trainer.state.fn == "fit"
        return Text(f"{duration(self.bar.seconds_left(self.trainer) if fitting else task.time_remaining)} left")
