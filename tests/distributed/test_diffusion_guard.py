"""Protection by DiffusionGuard: two processes find what one finds, with uneven shares."""

from pathlib import Path

import pandas as pd
import pytest

from tests.command import run


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = (
        *("test", "--config", "configs/diffusionguard/demo.yaml", "--trainer.precision", "64-true"),
        *("--model.iterations", "2", "--data.evaluation_batch_size", "5", "--trainer.limit_test_batches", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    )
    run(*settings, "--run_directory", one)
    run(*settings, "--run_directory", two, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    tables = [pd.read_csv(directory / "test_metrics.csv").set_index("metric")["value"] for directory in (one, two)]
    assert len(tables[0]) == 8
    assert dict(tables[1]) == pytest.approx(dict(tables[0]), rel=1e-6, abs=1e-6)
