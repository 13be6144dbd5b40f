"""Samples per second of all ranks and the remaining time, with a clock that a test controls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

import train
from experiments.progress_bar import WholeRun
from experiments.throughput import Throughput
from tests.experiments.test_command_line import DEMO
from tests.trainers import quiet

SAMPLES, LEFT = "throughput/samples_per_second", "throughput/hours_left"


class Clock(LightningModule):
    """By a simulated clock, a step takes two seconds, the first step sixty more, and a validation a hundred seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seconds = 1000.0
        self.shown: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seconds += 2 + 60 * (self.global_step == 0)
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seconds += 100

    def on_train_batch_end(self, *_: Any) -> None:
        if isinstance(bar := self.trainer.progress_bar_callback, WholeRun):
            self.shown.append(bar.get_metrics(self.trainer, self).get("samples/s"))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kept(CSVLogger):
    """Stores the logged throughput."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        self.__dict__.setdefault("rows", []).extend([(step, metrics)] * any("throughput" in name for name in metrics))


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, batches: list[Any], **options: Any) -> tuple[Clock, list[Any]]:
    module, logger = Clock(), Kept(folder)
    monkeypatch.setattr("experiments.throughput.time.monotonic", lambda: module.seconds)
    callbacks = [Throughput(), *options.pop("callbacks", [])]
    trainer = quiet(logger=logger, callbacks=callbacks, log_every_n_steps=2, **{"max_epochs": 2, **options})
    trainer.fit(module, DataLoader(batches, batch_size=None), DataLoader(torch.zeros(1)))  # type: ignore[arg-type]
    return module, logger.__dict__.get("rows", [])


def test_samples_of_all_ranks_are_counted_without_the_time_of_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [{"global_batch_size": size, "index": torch.zeros(1)} for size in (64, 6, 10, 20)]
    _, rows = fit(tmp_path, monkeypatch, batches)
    assert [step for step, _ in rows] == [2, 4, 6, 8]
    # The first measurement begins after the first step, whose batch is not counted.
    assert [row[SAMPLES] for _, row in rows] == pytest.approx([6 / 2, 30 / 4, 70 / 4, 30 / 4])
    # After two of eight steps: 64 seconds; after six: 64 + 8 and a validation.
    assert [row[LEFT] * 3600 for _, row in rows] == pytest.approx([64 * 6 / 2, 68, 172 * 2 / 6, 0])


def test_batches_of_unknown_size_and_accumulated_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = fit(tmp_path / "a", monkeypatch, [torch.zeros(3)] * 4)
    assert [sorted(row) for _, row in rows] == [[LEFT]] * 4
    batches = [{"global_batch_size": 5, "index": torch.zeros(1)}] * 4
    _, rows = fit(tmp_path / "b", monkeypatch, batches, accumulate_grad_batches=2, max_epochs=1)
    assert [(step, row[SAMPLES]) for step, row in rows] == [(2, pytest.approx(15 / 66))]  # without the first batch


def test_the_progress_bar_shows_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [{"global_batch_size": 6, "index": torch.zeros(1)}] * 4
    module, _ = fit(tmp_path, monkeypatch, batches, callbacks=[WholeRun()], enable_progress_bar=True)
    assert module.shown == [None, *[pytest.approx(3.0)] * 7]


def test_a_run_logs_its_throughput_to_tensorboard_alone(tmp_path: Path) -> None:
    fit = (*DEMO, "--run_directory", str(tmp_path), "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "2")
    assert train.main(list(fit)) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {SAMPLES, LEFT} <= set(events.Tags()["scalars"])
    assert all(event.value > 0 for event in events.Scalars(SAMPLES))
    assert "throughput" not in (tmp_path / "metrics.csv").read_text()
