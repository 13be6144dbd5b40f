"""Progress bar of a run. It shows the loss, a validation metric, and the remaining time of the whole run."""

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

SECONDS = 0.5
"""Interval between two reads of the loss, each a host sync."""


class WholeRun(RichProgressBar):
    """Show the loss of the last step, the last validation metric, and the remaining time of the whole run.

    Args:
        monitor: the validation metric to show; None chooses a metric.
        given_labels: whether validation labels are noisy. If so, the displayed name of the metric says this.
    """

    def __init__(self, monitor: str | None = None, given_labels: bool = False) -> None:
        super().__init__()
        self.monitor = monitor
        self.given_labels = given_labels
        self._loss: torch.Tensor | None = None
        self._shown: dict[str, int | str | float | dict[str, float]] = {}
        self._looked = -math.inf

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Choose columns that fit into a terminal of 80 characters next to the metrics."""
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
            if name := validation_metric(trainer.callback_metrics, self.monitor):
                note = " on given labels" if self.given_labels else ""
                self._shown[name + note] = trainer.callback_metrics[name].item()
        return self._shown

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Estimate the remaining time of the whole run from the progress of this process."""
        done = share_done(trainer)
        new = done - self._done_before
        return None if new <= 0 else (time.monotonic() - self._started) * max(1 - done, 0) / new


class StageColumn(TextColumn):
    """Column with the stage and the epoch. The total number of epochs is shown only if this number limits the run."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.plain = re.sub(r"/-\d+", "", text.plain)
        return text


class TimeLeft(ProgressColumn):
    """Column with the remaining time. During training, this is the time of the whole run, otherwise of the stage."""

    max_refresh = SECONDS

    def __init__(self, bar: WholeRun, trainer: Trainer) -> None:
        super().__init__()
        self.bar = bar
        self.trainer = trainer

    def render(self, task: Task) -> Text:
        fitting = self.trainer.state.fn == "fit"
        return Text(f"{duration(self.bar.seconds_left(self.trainer) if fitting else task.time_remaining)} left")


def share_done(trainer: Trainer) -> float:
    """Compute which fraction of a run is completed.

    `max_epochs` or `max_steps` limits the run. Return 0 if this is unknown. Batches that an interrupted run has
    completed also count.
    """
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    batches = epochs * trainer.num_training_batches if epochs > 0 else math.inf
    by_epochs = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) / batches if batches else 0.0
    return max(by_epochs, trainer.global_step / steps if steps > 0 else 0.0)
