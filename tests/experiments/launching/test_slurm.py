"""Array jobs are submitted once, even if the comparison is interrupted, and cancelled by Ctrl-C."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments import commands
from tests.experiments.conftest import Config, Journal, table
from tests.experiments.launching.test_run_queue import start, wait_until

pytest.importorskip("submitit")
SLURM = ["--launcher", "slurm", "--slurm", "timeout_min=30", "partition=small", "--cpus_per_job", "2"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create stand-ins for the information that SLURM's commands provide."""
    place, commands = tmp_path / "cluster", tmp_path / "bin"
    place.mkdir()
    commands.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        (commands / name).write_text(
            f"#!{sys.executable}\n" + Path(__file__).with_name("stand_in_slurm.py").read_text()
        )
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SLURM", str(place))
    return place


@pytest.mark.nightly
def test_jobs_of_a_comparison_that_was_killed_are_taken_up_again(
    config: Config, fit: list[str], journal: Journal, cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", start=0.9, max_epochs=20, seconds=0.2), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "1", "--output", str(out), *SLURM]
    process = start(arguments, fit)
    wait_until(lambda: {line[1] for line in journal() if line[2] == "epoch"} == {"0", "1"})
    process.kill()
    process.wait()
    before = len(journal())
    wait_until(lambda: len(journal()) > before)
    assert commands.run("compare", arguments, fit) == 0
    assert "note: 2 of the runs are already SLURM jobs, which continue" in capsys.readouterr().out
    assert [line[2] for line in journal()].count("started") == 2
    assert {row["seed"] for row in table(out / "runs.csv")} == {"0", "1"}
    calls = [line.split()[0] for line in (cluster / "calls").read_text().splitlines()]
    assert calls.count("sbatch") == 1
    script = (cluster / "100.sh").read_text()
    for line in ("--array=0-1%2", "--partition=small", "--time=30", "--cpus-per-task=2", "--job-name=noiseworks"):
        assert f"#SBATCH {line}\n" in script
    assert "gpus" not in script


@pytest.mark.nightly
def test_ctrl_c_cancels_the_jobs_and_the_same_command_submits_them_again(
    config: Config, fit: list[str], journal: Journal, cluster: Path, tmp_path: Path
) -> None:
    a, out = config("a", start=0.9, max_epochs=20, seconds=0.2), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "1", "--output", str(out), *SLURM]
    process = start(arguments, fit)
    wait_until(lambda: {line[1] for line in journal() if line[2] == "epoch"} == {"0", "1"})
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "interrupted: 0 of 2 runs are finished" in output
    time.sleep(0.5)
    stopped = journal()
    time.sleep(0.5)
    assert journal() == stopped
    assert commands.run("compare", arguments, fit) == 0
    assert [line[2] for line in journal()[len(stopped) :]].count("resumed") == 2


@pytest.mark.nightly
def test_a_job_that_the_cluster_ends_is_a_failure_with_its_state(
    config: Config, fit: list[str], journal: Journal, cluster: Path, tmp_path: Path
) -> None:
    a = config("a", start=0.9, max_epochs=20, seconds=0.2)
    process = start([str(a), "--seeds", "0", "1", "--output", str(tmp_path / "out"), *SLURM], fit)
    wait_until(lambda: {line[1] for line in journal() if line[2] == "epoch"} == {"0", "1"})
    os.killpg(int((cluster / "100_1.pid").read_text()), signal.SIGKILL)
    (cluster / "100_1.state").write_text("OUT_OF_MEMORY")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "a, seed 1 failed (SLURM job 100_1: OUT_OF_MEMORY" in output
    assert "a, seed 0: finished" in output


@pytest.mark.nightly
@pytest.mark.usefixtures("no_pictures")
def test_trials_of_a_search_are_submitted_when_there_is_room_for_them(
    config: Config, fit: list[str], journal: Journal, cluster: Path, tmp_path: Path
) -> None:
    a, out = config("a"), tmp_path / "tune"
    search = ["--search", "model.x=float:0:1", "--metric", "val/accuracy", "--trials", "4", "--jobs", "2"]
    assert commands.run("tune", [str(a), *search, "--output", str(out), *SLURM], fit) == 0
    assert [row["state"] for row in table(out / "trials.csv")] == ["complete"] * 4
    events = [(line[0], line[2]) for line in journal() if line[2] in ("started", "finished")]
    first_end = next(i for i, (_, event) in enumerate(events) if event == "finished")
    assert {trial for trial, _ in events[:first_end]} <= {"trial_0", "trial_1"}
    calls = [line.split()[0] for line in (cluster / "calls").read_text().splitlines()]
    assert 2 <= calls.count("sbatch") <= 4
