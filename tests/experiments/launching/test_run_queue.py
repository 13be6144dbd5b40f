import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from experiments import commands, compare
from experiments.launching import run_queue
from experiments.launching.local import Local
from experiments.run_request import load_experiments
from tests.experiments.conftest import Config, Journal, table


def is_alive(process: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def start(arguments: list[str], fit: list[str], before: str = "pass") -> subprocess.Popen[str]:
    """Start `compare` as the leader of a process group; unlike a shell's background job, it receives Ctrl-C."""
    program = (
        f"{before}; import sys; from experiments.commands import run; sys.exit(run('compare', {arguments!r}, {fit!r}))"
    )
    project = str(Path(compare.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="children end with a killed parent on Linux alone")
def test_killed_in_the_middle_and_called_again_it_ends_as_if_it_had_not_been_killed(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = config("a", start=0.9, max_epochs=6, seconds=0.1)
    seeds = ["--seeds", "0", "1", "2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start([str(a), *seeds, "--output", str(killed)], fit)
    wait_until(lambda: ["a", "1", "epoch", "2"] in journal())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)
    stopped = journal()
    assert ["a", "1", "finished", "6"] not in stopped
    time.sleep(0.4)
    assert journal() == stopped, "a run outlived the comparison"

    assert commands.run("compare", [str(a), *seeds, "--output", str(killed)], fit) == 0
    printed = capsys.readouterr().out
    assert "a, seed 1: continued" in printed
    assert "a, seed 2: started" in printed
    again = journal()[len(stopped) :]
    assert again[0][:3] == ["a", "1", "resumed"]
    assert int(again[0][3]) >= 3
    assert not [line for line in again if line[1] == "0"]
    assert commands.run("compare", [str(a), *seeds, "--output", str(whole)], fit) == 0
    for name in ("summary.csv", "runs.csv", "a/seed_1/metrics.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_without_a_checkpoint_starts_afresh(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    a, out = config("a", start=0.9, crash=[0]), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "--output", str(out)]
    assert commands.run("compare", arguments, fit) == 1
    (out / "a/seed_0/checkpoints/last.ckpt").unlink()
    (out / "a/seed_0/leftover.txt").write_text("of somebody")
    assert commands.run("compare", arguments, fit) == 1
    assert [line[2:] for line in journal() if line[2] in ("started", "resumed")] == [["started", "0"]] * 2
    assert (out / "a/seed_0/leftover.txt").read_text() == "of somebody"
    assert (out / "a/seed_0/log.txt").read_text().count("training 0") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_runs_and_what_they_launched(
    number: signal.Signals, config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    a = config("a", start=0.9, max_epochs=400, seconds=0.05, launch=True)
    process = start([str(a), "--seeds", "0", "1", "--jobs", "2", "--output", str(tmp_path / "out")], fit)
    wait_until(lambda: sum(line[2] == "epoch" for line in journal()) > 4)
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "interrupted: 0 of 2 runs are finished; repeat the command to continue" in output
    assert "Traceback" not in output
    launched = [int(line[3]) for line in journal() if line[2] == "launched"]
    assert len(launched) == 2
    wait_until(lambda: not any(is_alive(each) for each in launched))
    stopped = journal()
    time.sleep(0.2)
    assert journal() == stopped


def test_one_failed_run_does_not_lose_the_others(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = config("a", start=0.9, crash=[1]), config("b", start=0.5, empty=[2])
    out = tmp_path / "out"
    assert commands.run("compare", [str(a), str(b), "--seeds", "0", "1", "2", "--output", str(out)], fit) == 1
    counts = {row["config"]: row["seeds"] for row in table(out / "summary.csv") if row["metric"] == "test/accuracy"}
    assert counts == {"a": "2", "b": "2"}
    printed = capsys.readouterr().out
    assert f"a, seed 1 failed (exit status 3); its log is {out}/a/seed_1/log.txt" in printed
    assert "  | last line of the error" in printed
    assert f"b, seed 2 failed (ended without test_metrics.csv); its log is {out}/b/seed_2/log.txt" in printed


def test_a_config_that_changes_while_runs_wait_is_not_mixed_in(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    path, out = config("a", start=0.9, seconds=0.2), tmp_path / "out"
    process = start([str(path), "--seeds", "0", "1", "--output", str(out)], fit)
    wait_until(lambda: ["a", "0", "epoch", "0"] in journal())
    config("a", start=0.1)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "was changed after the comparison had started" in output
    assert [row["seed"] for row in table(out / "runs.csv")] == ["0", "0"]


def test_a_run_that_no_signal_ends_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that waits for a disk does not end before the disk answers."""
    monkeypatch.setattr(run_queue, "GRACE_SECONDS", 0.2)
    sent: list[int] = []
    stuck: Any = SimpleNamespace(poll=lambda: None, signal=sent.append, waiting=False, said="")
    runs: list[Any] = [SimpleNamespace(title=f"a, seed {seed}") for seed in range(2)]
    run_queue._terminate([run_queue.Child(run, stuck, 0, False) for run in runs], Console())
    assert sent == [signal.SIGTERM] * 2 + [signal.SIGKILL] * 2
    assert "a, seed 1 has not ended after SIGKILL and may wait for a disk: end it by hand" in capsys.readouterr().out


def test_a_run_that_outlives_its_comparison_keeps_others_out(
    config: Config,
    fit: list[str],
    journal: Journal,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    arguments = [str(config("a", start=0.9, max_epochs=25, seconds=0.1)), "--seeds", "0", "--output", str(out)]
    process = start(arguments, fit, "from experiments.launching import local; local.AVAILABLE = False")
    wait_until(lambda: ["a", "0", "epoch", "0"] in journal())
    process.kill()
    process.wait()
    monkeypatch.setattr(run_queue, "GRACE_SECONDS", 0.2)
    assert commands.run("compare", arguments, fit) == 2
    assert f"{out} is in use" in capsys.readouterr().err
    wait_until(lambda: ["a", "0", "finished", "25"] in journal())
    assert commands.run("compare", arguments, fit) == 0
    assert [line[2] for line in journal()].count("epoch") == 25


def test_progress_on_a_terminal_shows_epochs_of_each_run(config: Config, fit: list[str], tmp_path: Path) -> None:
    path = config("a", start=0.9, max_epochs=12, seconds=0.1)
    runs = compare.plan_runs(load_experiments([path]), [0, 1], tmp_path / "out")
    with (tmp_path / "screen.txt").open("w") as screen:
        console = Console(file=screen, force_terminal=True, highlight=False, width=100)
        assert not run_queue.run_all(runs, launcher=Local(2), console=console, run_command=fit)
    text = (tmp_path / "screen.txt").read_text()
    for said in (
        "a, seed 0",
        "a, seed 1",
        "starting",
        "/12",
        "all runs",
        "2/2",
        "a, seed 1: finished in",
        "left for all runs",
        "val/accuracy 0.",
    ):
        assert said in text
    assert re.search(r"epoch \d+/12, 0:00:0\d left, val/accuracy 0\.\d+", text)


def test_the_time_left_is_that_of_the_epochs_to_come() -> None:
    child = run_queue.Child(None, None, 0, False, max_epochs=20)  # type: ignore[arg-type]
    child.see(8, 100.0)  # an epoch of an earlier call, before the run was resumed
    assert child.seconds_left(103.0) is None
    child.see(10, 106.0)
    child.see(10, 107.0)
    assert child.seconds_left(106.0) == 30.0
    assert child.seconds_left(108.0) == 28.0
    assert child.seconds_left(110.0) == 36.0  # the current epoch has taken 4 seconds, and nine more follow
    child.see(20, 136.0)
    assert child.seconds_left(140.0) == 0.0
