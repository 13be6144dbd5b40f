"""The cost of saving a checkpoint does not grow with metrics.csv, and no second table of per-sample state is made."""

import io
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.saving.metrics_table import MetricsTable, ResumableMetrics
from lightning_modules.distributed.per_sample import PerSample

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
ROWS = 100_000
METRICS = {f"train/metric_{k}": 0.1 * k for k in range(6)}


def cost(table: MetricsTable, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int]:
    """Save the table in a hundred checkpoints; return the CPU time, and the size of one checkpoint in bytes."""
    trainer: Any = SimpleNamespace(is_global_zero=True, _results={}, current_epoch=0)
    trainer._logger_connector = SimpleNamespace(_first_loop_iter=True)
    monkeypatch.setattr("experiments.saving.metrics_table.ended_early", lambda _: False)
    start = time.process_time()
    for _ in range(100):
        checkpoint: dict[str, Any] = {}
        ResumableMetrics(table).on_save_checkpoint(trainer, torch.nn.Module(), checkpoint)  # type: ignore[arg-type]
        torch.save(checkpoint, buffer := io.BytesIO())
    return time.process_time() - start, buffer.tell()


def test_checkpoints_late_in_a_run(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = MetricsTable(tmp_path)
    (tmp_path / "config.yaml").touch()
    costs = []
    for rows in (ROWS // 100, ROWS):
        for step in range(table.written.count, rows):
            table.log_metrics({"epoch": 0.0, **METRICS}, step)
        cost(table, monkeypatch)
        costs.append(cost(table, monkeypatch))
    (early, few), (late, many) = costs
    report(
        f"bytes in a checkpoint for metrics.csv of {ROWS:,} rows over those for {ROWS // 100:,}", many / few, "<= 1.1"
    )
    report(f"CPU time of saving them, {ROWS:,} rows over {ROWS // 100:,}", late / early, "<= 2")
    assert many <= 1.1 * few
    assert late <= 2 * early


def _peak(rows: int, features: int, path: str, pipe: Connection) -> None:
    memory = PerSample(features).allocate(rows, "cpu")
    index = torch.arange(rows)
    for part in index.split(10_000):
        memory.update(part, torch.ones(len(part), features), lambda old, new: old + new)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save({"targets": memory.gathered(copy=False)}, path)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def test_memory_of_saving_what_is_remembered_per_sample(report: Report, tmp_path: Path) -> None:
    rows, features = 130_000, 1_000
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_peak, args=(rows, features, str(tmp_path / "saved.pt"), theirs)
    )
    process.start()
    ratio = ours.recv() / (rows * features * 4)
    process.join()
    report("memory that a checkpoint of PerSample takes on top of its table, over it (0.5 GB)", ratio, "<= 0.1")
    assert ratio <= 0.1
