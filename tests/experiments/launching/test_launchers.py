"""The same sweep with every launcher, and errors at the start."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments import commands
from experiments.launching import slurm
from experiments.launching.run_queue import Job
from tests.experiments.conftest import Config, Journal, Rejected, table


@pytest.fixture
def submitit_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use the SLURM arguments with submitit's executor for this machine."""
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    monkeypatch.setattr(slurm, "REQUEUE_SECONDS", 0.1)
    return ["--launcher", "slurm", "--slurm", "timeout_min=5"]


def sweep(config: Config, output: Path, *more: str) -> list[str]:
    a = config("a", max_epochs=3, start=0.9, width=8, crash=[2], seconds=0.1)
    return [str(a), "--seeds", "0", "1", "2", "--output", str(output), *more]


def test_slurm_gives_what_this_machine_gives(
    config: Config, fit: list[str], tmp_path: Path, submitit_here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert commands.run("compare", sweep(config, here), fit) == 1
    capsys.readouterr()
    assert commands.run("compare", sweep(config, there, *submitit_here), fit) == 1
    assert "a, seed 2 failed (exit status 3)" in capsys.readouterr().out
    for name in ("runs.csv", "summary.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert len(table(here / "runs.csv")) == 2 * 4


def below(process: int) -> list[int]:
    """Return the descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    own = [each for each, parent in parents.items() if parent == process]
    return own + [each for child in own for each in below(child)]


def test_a_job_whose_time_is_over_saves_and_comes_again(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, submitit_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """SLURM sends USR2 to all processes of the job."""
    interrupted: list[int] = []
    own = slurm.Slurm.start

    def start(self: slurm.Slurm, jobs: Sequence[Job]) -> list[slurm.Submitted]:
        handles = own(self, jobs)

        def wait(seconds: float) -> None:
            if not interrupted and ["a", "0", "epoch", "1"] in journal():
                interrupted.extend(below(handles[0].job._process.pid))
                for process in interrupted:
                    os.kill(process, signal.SIGUSR2)
            time.sleep(0.05)

        monkeypatch.setattr(self, "wait", wait)
        return handles

    monkeypatch.setattr(slurm.Slurm, "start", start)
    a = config("a", start=0.9, max_epochs=8, seconds=0.3)
    assert (
        commands.run("compare", [str(a), "--seeds", "0", "--output", str(tmp_path / "out"), *submitit_here], fit) == 0
    )
    assert len(interrupted) == 2  # submitit's process on the node, and the run
    events = [line[2:] for line in journal() if line[2] in ("started", "resumed", "finished")]
    assert [name for name, _ in events] == ["started", "resumed", "finished"]
    assert int(events[1][1]) >= 2


@pytest.mark.parametrize(
    ("gpus", "more", "said"),
    [
        (2, ["--jobs", "3"], "3 runs at a time need 3 GPUs with 1 each, but this machine has 2: reduce --jobs"),
        (0, ["--gpus_per_job", "1"], "--gpus_per_job 1: this machine has no GPU"),
        (2, ["--gpus_per_job", "1.5"], "'1.5' is neither a whole number nor a fraction below 1 such as 0.5"),
        (2, ["--slurm", "partition=gpu"], "--slurm needs --launcher slurm, got local"),
        (2, ["--launcher", "slurm", "--slurm", "partition"], "'partition' is not of the form NAME=VALUE"),
        (2, ["--launcher", "slurm"], "srun is not installed"),
    ],
)
def test_what_the_machine_cannot_give_is_refused_by_name(
    gpus: int, more: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "1", "2", "3", "--output", str(tmp_path / "out"), *more]
    rejected("compare", arguments, said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--slurm timeout_min is missing"),
        (["--slurm", "timeout_min=1h"], "timeout_min must be a whole number of minutes, got '1h'"),
        (["--slurm", "timeout_min=5", "nodes=2"], "--slurm nodes must be one of account, additional_parameters"),
        (["--slurm", "timeout_min=5", "partion=gpu"], "--slurm partion must be one of"),
        (["--slurm", "timeout_min=5", "--gpus_per_job", "0.5"], "--gpus_per_job 0.5: SLURM allocates whole GPUs"),
    ],
)
def test_what_slurm_is_not_asked_for_is_refused_by_name(
    more: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path, submitit_here: list[str]
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--launcher", "slurm"]
    rejected("compare", [*arguments, *more], said)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_whose_package_is_missing_says_how_to_get_it(
    name: str, package: str, config: Config, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--launcher", name]
    rejected("compare", arguments, f"pip install 'noiseworks[{name}]'")
