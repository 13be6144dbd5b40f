"""Runs of all states below a folder, among them those of a stranger, are listed, shown and removed."""

import csv
import fcntl
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from experiments.calls.build import build
from experiments.calls.execute import execute
from experiments.calls.parse import parse
from experiments.listing import last_metrics, read_run, run_directories
from tests.command import ROOT

DEMO = str(ROOT / "configs/elr/demo.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_pictures: None) -> Path:
    """Train the demo for two epochs, with another strength than in its configuration."""
    directory = tmp_path_factory.mktemp("runs") / "elr" / "demo" / "finished"
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.callbacks", "[]", "--data.loading.num_workers", "0")
    line = ["fit", "--config", DEMO, "--trainer.max_epochs", "2", "--model.strength", "0.5", *quiet]
    execute(build(parse([*line, "--run_directory", str(directory), "--test_after_fit", "true"])))
    return directory


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """Copy the run: one is killed after its first epoch, one has failed, and one is locked by a process."""
    for name in ("finished", "killed", "failed", "running"):
        copy = tmp_path / "elr" / "demo" / name
        shutil.copytree(finished, copy)
        if name != "finished":
            (copy / "test_metrics.csv").unlink()
            lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
            (copy / "metrics.csv").write_text("".join(line for line in lines if line.startswith(("epoch", "0,"))))
    trace = tmp_path / "elr/demo/failed/traceback.txt"
    trace.write_text("Traceback (most recent call last):\n  File x\nValueError: the data are \x1b[31mgone\n")
    os.utime(trace, (time.time() + 60, time.time() + 60))
    with (tmp_path / "elr/demo/running/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    assert train.main(["runs", *map(str, arguments), "--format", "csv"]) == 0
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    return {Path(row["run"]).name: dict(row) for row in rows}


def test_each_run_has_its_state_epoch_metrics_and_the_command_that_continues_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = listed(capsys, folder, "--metrics", "test/accuracy,val/accuracy")
    assert {name: row["state"] for name, row in rows.items()} == {name: name for name in rows}
    assert {(row["method"], row["data"]) for row in rows.values()} == {("ELR", "Digits")}
    assert {name: row["epoch"] for name, row in rows.items()} == dict.fromkeys(rows, "0") | {"finished": "1"}
    with (folder / "elr/demo/finished/test_metrics.csv").open() as file:
        tested = dict(csv.reader(file))
    assert float(rows["finished"]["test/accuracy"]) == float(tested["test/accuracy"])
    assert rows["killed"]["test/accuracy"] == "-" != rows["killed"]["val/accuracy"]
    killed, failed = (folder / "elr" / "demo" / name for name in ("killed", "failed"))
    assert rows["killed"]["continue or reason"] == f"python train.py fit --resume {killed}"
    assert rows["failed"]["continue or reason"].startswith(f"python train.py fit --resume {failed} # ValueError: the")
    assert "\x1b" not in str(rows)
    (killed / "trained.csv").write_text("metric,value\npruned,1\n")  # a trial of `tune` that ended early
    assert read_run(killed).state == "finished"
    (killed / "trained.csv").unlink()
    usage = (killed / "usage.csv").stat()
    os.utime(killed / "usage.csv")  # the run stopped early, and recorded its usage after its metrics
    assert read_run(killed).state == "finished"
    os.utime(killed / "usage.csv", ns=(usage.st_atime_ns, usage.st_mtime_ns))
    shutil.copy2(failed / "traceback.txt", folder / "elr/demo/finished")  # a later prediction has failed
    assert read_run(folder / "elr/demo/finished").state == "finished"
    assert listed(capsys, folder, "--state", "killed", "failed", "--method", "elr").keys() == {"killed", "failed"}
    assert next(iter(listed(capsys, folder, "--sort", "test/accuracy"))) == "finished"
    assert train.main(["runs", str(folder), "--sort", "test/acuracy"]) == 2
    assert "--sort must be date, duration, epoch or a metric (" in capsys.readouterr().err
    assert train.main(["runs", str(folder / "none")]) == 2


def test_a_run_is_shown_with_its_changes_and_a_page_has_curves(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["runs", "show", str(folder / "elr/demo/finished")]) == 0
    shown = capsys.readouterr().out
    assert "ELR on Digits, finished, epoch 1" in shown
    assert "  model.strength: 0.5  (configuration: 3.0)" in shown
    assert "last.ckpt" in shown
    assert train.main(["runs", str(folder), "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert page.count("<tr>") == 5  # with the header
    assert page.count("<polyline") == 1  # the others have one epoch
    assert "<script" not in page


def test_removing_asks_first_and_leaves_all_other_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.main(["runs", "remove", str(folder)]) == 2
    assert train.main(["runs", "remove", str(folder), "--state", "finished"]) == 2
    line = ["runs", "remove", str(folder), "--state", "failed"]
    for answer, status, left in (("\n", 1, 4), ("y\n", 0, 3)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert train.main(line) == status
        assert len(list(run_directories(folder))) == left
    assert "remove these 1 folders with all their files? [y/N]" in capsys.readouterr().out
    assert not (folder / "elr/demo/failed").exists()


def test_a_strangers_run_is_read_as_text(tmp_path: Path) -> None:
    """Pipes, links, huge or broken values and class paths of modules that run code only change what is shown."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model:\n  class_path: antigravity.X\ntrainer:\n  max_epochs: 5\nother: [\n")
    (run / "metrics.csv").write_text("epoch,step,a\ninf,nan,1\n1e999,3,x\n\x00,,\n")
    os.mkfifo(run / "test_metrics.csv")
    (run / "traceback.txt").symlink_to("/etc/passwd")
    (run / ".lock").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(run_directories(tmp_path)) == [run]
    found = read_run(run)
    assert (found.method, found.data, found.state, found.epoch, found.reason) == ("X", "-", "killed", None, "")


def test_the_last_epoch_of_a_long_table_is_read_from_its_end(tmp_path: Path) -> None:
    rows = [f"{epoch},{10 * epoch},{epoch / 1000}" for epoch in range(1000)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,val/accuracy", *rows]) + "\n")
    epoch, step, metrics, _ = last_metrics(tmp_path)
    assert (epoch, step, metrics) == (999, 9990, {"val/accuracy": 0.999})
