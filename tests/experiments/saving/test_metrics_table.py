"""A checkpoint stores how many rows the metrics table has, and restores these rows; later rows are removed."""

import csv
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.saving.metrics_table import MetricsTable, ResumableMetrics, RowsSoFar, find_rows

ROWS = [{"epoch": epoch, "step": 10 * epoch + 9, "train/loss": 1 / (epoch + 3)} for epoch in range(5)]


def saved(table: MetricsTable, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"kept": table.written.count, "digest": table.written.digest, "rows": [*rows], "means": {}}


def logged(directory: Path, rows: list[dict[str, Any]]) -> MetricsTable:
    table = MetricsTable(directory)
    for row in rows:
        table.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])
    return table


def read(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row.items()} for row in rows]


def test_what_a_checkpoint_holds_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """In earlier versions, every checkpoint stored the table, which took 7 MiB for 1e5 rows."""
    table = logged(tmp_path, ROWS)
    (tmp_path / "config.yaml").touch()
    trainer: Any = SimpleNamespace(is_global_zero=True, _results={}, current_epoch=0, callback_metrics={})
    trainer._logger_connector = SimpleNamespace(_first_loop_iter=True)
    trainer.should_stop = False
    sizes = []
    for _ in range(2):
        checkpoint: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("experiments.saving.metrics_table.ended_early", lambda _: False)
            ResumableMetrics(table).on_save_checkpoint(trainer, torch.nn.Module(), checkpoint)  # type: ignore[arg-type]
        sizes.append(len(pickle.dumps(checkpoint)))
        for epoch in range(5, 200):
            table.log_metrics({"epoch": epoch, "train/loss": 0.25}, epoch)
    assert sizes[1] <= sizes[0] + 8


@pytest.mark.parametrize("pending", [[], [{"step": 49, "val/accuracy": 0.5, "epoch": 4}]], ids=["within", "at its end"])
def test_the_table_is_that_of_the_checkpoint_whatever_columns_came_later(
    pending: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    table = logged(killed, ROWS[:3])
    state = saved(table, *pending)
    for row in ROWS[3:]:
        table.log_metrics({"a, new": float("nan"), **row}, row["step"])
    resumed = MetricsTable(killed, continued=True)
    resumed.restore(state, killed / "checkpoints/last.ckpt")
    logged(whole, [*ROWS[:3], *pending])
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert saved(resumed) == saved(MetricsTable(whole, continued=True))
    resumed.log_metrics({"train/loss": 2.0}, 50)
    assert saved(resumed) == saved(MetricsTable(killed, continued=True))
    assert [path.name for path in killed.iterdir()] == ["metrics.csv"]


def test_a_torn_last_row_is_forgotten(tmp_path: Path) -> None:
    table = logged(tmp_path, ROWS[:2])
    state = saved(table)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,2")
    MetricsTable(tmp_path, continued=True).restore(state, tmp_path / "checkpoints/last.ckpt")
    assert read(tmp_path) == content(ROWS[:2])


def test_a_run_that_begins_from_another_ones_checkpoint_has_its_rows(tmp_path: Path) -> None:
    first, fork = tmp_path / "first", tmp_path / "fork"
    state = saved(logged(first, ROWS))
    MetricsTable(fork).restore(state, first / "checkpoints/best.ckpt")
    assert read(fork) == read(first) == content(ROWS)


def test_newer_checkpoints_find_their_rows_after_an_older_one_was_gone_on_from(tmp_path: Path) -> None:
    table = logged(tmp_path, ROWS[:2])
    old = saved(table)
    for row in ROWS[2:]:
        table.log_metrics(row, row["step"])
    new = saved(table)
    (tmp_path / "checkpoints").mkdir()
    for name, state in {"best": old, "last": new}.items():
        content_ = {"state_dict": {}, "global_step": 1, "metrics_table": state}
        torch.save(content_, tmp_path / f"checkpoints/{name}.ckpt")
    table = MetricsTable(tmp_path, continued=True)
    table.restore(old, tmp_path / "checkpoints/best.ckpt")
    table.log_metrics({"epoch": 7, "train/loss": 7.0}, 79)
    assert len(read(tmp_path)) == 3
    MetricsTable(tmp_path, continued=True).restore(new, tmp_path / "checkpoints/last.ckpt")  # as after a kill
    assert read(tmp_path) == content(ROWS)


@pytest.mark.parametrize("change", ["missing", "edited", "shorter", "not a readable table"])
def test_a_table_of_something_else_is_kept_and_said(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, file = saved(logged(tmp_path, ROWS), ROWS[-1]), tmp_path / "metrics.csv"
    text = file.read_text()
    changed = {
        "edited": text.replace("0.25", "0.26"),
        "shorter": text[: len(text) // 2],
        "not a readable table": "\x00\n\x00",
    }
    file.write_text(changed.get(change, text))
    if change == "missing":
        file.unlink()
    table = MetricsTable(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.saving.metrics_table.rank_zero_info", print)
        table.restore(state, tmp_path / "checkpoints/last.ckpt")
    assert f"begins with the {len(ROWS)} rows that it had when the checkpoint was saved" in capsys.readouterr().out
    assert read(tmp_path) == content(ROWS[-1:])
    aside = [path.read_text() for path in tmp_path.glob("metrics_*.csv")]
    assert aside == ([] if change == "missing" else [changed[change]])


def test_a_pipe_in_a_run_directory_is_not_read_as_its_table(tmp_path: Path) -> None:
    seen = RowsSoFar()
    seen.add({"step": "1"})
    pipe = tmp_path / "metrics_0.csv"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # so that a reader would get the row instead of blocking
    try:
        os.write(writer, b"step\n1\n")
        assert find_rows([tmp_path], 1, seen.digest) is None
    finally:
        os.close(writer)
    pipe.unlink()
    pipe.write_text("step\n1\n")
    assert find_rows([tmp_path], 1, seen.digest) == [{"step": "1"}]


def test_a_test_that_was_not_killed_keeps_its_row_if_an_earlier_one_has_the_same_results(tmp_path: Path) -> None:
    """The best and the last checkpoint are tested one after the other, and may be equal."""
    tested = {"epoch": 4, "step": 50, "test/accuracy": 0.5}
    whole = logged(tmp_path / "whole", [*ROWS, tested, tested])
    logged(tmp_path / "killed", [*ROWS, tested])
    for _ in range(2):
        continued = MetricsTable(tmp_path / "killed", continued=True)
        for _ in range(2):
            continued.log_metrics({"epoch": 4, "test/accuracy": 0.5}, 50)
        assert continued.path.read_bytes() == whole.path.read_bytes()
