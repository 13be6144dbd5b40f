"""Measure the samples per second and the remaining time of a training run.

Lightning's `ThroughputMonitor` waits for the GPU in every step, and assumes that all batches have the same size. Here,
only the host's clock is read, and the size of each batch is its `global_batch_size`.
"""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from experiments.saving.metrics_table import MetricsTable

SHOWN = 21
"""Number of recent points in time from which the displayed rate is computed."""


class Throughput(Callback):
    """Log `throughput/samples_per_second` and `throughput/hours_left` every `log_every_n_steps` training steps.

    Samples of all ranks are counted, and the time of validation is excluded. The values are logged to all loggers of
    the run except the table `metrics.csv`, which must not depend on time.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._logged: deque[tuple[float, int]] = deque(maxlen=2)
        self._shown: deque[tuple[float, int]] = deque(maxlen=SHOWN)
        self._paused, self._pause_began = 0.0, 0.0
        self._started, self._done_before = 0.0, 0.0  # read during the sanity check, too

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._done_before = time.monotonic(), share_done(trainer)
        self._step = trainer.global_step
        self._logged.clear()
        self._shown.clear()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.monotonic() - self._pause_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        size = batch.get("global_batch_size", 0) if isinstance(batch, Mapping) else 0
        self.samples += size if isinstance(size, int) else 0
        if not self._logged:  # measuring starts after the first batch, which includes compilation
            self._logged.append(self._now())
            self._shown.append(self._now())
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.is_global_zero and every and trainer.global_step - self._step >= every:
            self._step = trainer.global_step
            self._logged.append(self._now())
            self._log(trainer)

    def recent_rate(self) -> float | None:
        """Return the samples per second since a recent call, or None if the sizes of batches are unknown."""
        self._shown.append(self._now())
        return rate(self._shown)

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Estimate the remaining time of the whole run from the progress of this process."""
        done = share_done(trainer)
        new = done - self._done_before
        return None if new <= 0 else (time.monotonic() - self._started) * max(1 - done, 0) / new

    def _log(self, trainer: Trainer) -> None:
        left = self.seconds_left(trainer)
        found = {"samples_per_second": rate(self._logged), "hours_left": None if left is None else left / 3600}
        values = {f"throughput/{name}": value for name, value in found.items() if value is not None}
        for logger in trainer.loggers:
            if values and not isinstance(logger, MetricsTable):
                logger.log_metrics(values, step=trainer.global_step)

    def _now(self) -> tuple[float, int]:
        """Return the current time minus the time spent in validation, and the number of samples so far."""
        return time.monotonic() - self._paused, self.samples


def rate(points: deque[tuple[float, int]]) -> float | None:
    """Compute samples per second between the first and last point `(seconds, samples)`. Return None if unknown."""
    if len(points) < 2 or points[-1][0] <= points[0][0] or points[-1][1] == points[0][1]:
        return None
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


def share_done(trainer: Trainer) -> float:
    """Return the completed fraction of a run.

    The length of the run is given by `max_epochs` or `max_steps`. If the length is unknown, the result is 0. Batches
    that were completed before an interruption are included.
    """
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    batches = epochs * trainer.num_training_batches if epochs > 0 else math.inf
    by_epochs = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) / batches if batches else 0.0
    return max(by_epochs, trainer.global_step / steps if steps > 0 else 0.0)
