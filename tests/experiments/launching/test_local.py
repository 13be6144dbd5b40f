import fcntl
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import commands
from experiments.launching import local
from experiments.launching.fork_server import AVAILABLE
from experiments.launching.run_queue import lock
from tests.experiments.conftest import Config, Journal


def test_children_that_run_together_share_the_cores(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 7)
    path = config("a", start=0.9, seconds=1.0)
    arguments = [str(path), "--seeds", "0", "1", "2", "--output", str(tmp_path / "out")]
    assert commands.run("compare", [*arguments, "--jobs", "3"], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"2"}
    first_end = next(i for i, line in enumerate(journal()) if line[2] == "finished")
    assert sum(line[2] == "started" for line in journal()[:first_end]) == 3
    (tmp_path / "configs/method/journal.txt").unlink()
    config("a", start=0.9)
    assert commands.run("compare", [*arguments[:-1], str(tmp_path / "one by one")], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"None"}
    starts = [i for i, line in enumerate(journal()) if line[2] == "started"]
    ends = [i for i, line in enumerate(journal()) if line[2] == "finished"]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.skipif(not AVAILABLE, reason="processes are forked on Linux alone")
@pytest.mark.parametrize("asks", [True, False])
def test_what_is_asked_before_the_runs_imports_for_them_and_locks_reach_them_all_the_same(
    asks: bool, tmp_path: Path
) -> None:
    """In earlier versions, all modules were imported twice: in the preflight process and in the server of the runs."""
    asked, run, engine = tmp_path / "asked.py", tmp_path / "run.py", local.Local()
    asked.write_text("import os, sys, colorsys; print(sys.argv[1:], sys.stdin.read(), os.getppid(), *sys.path[:1])")
    run.write_text("import os, sys, time; print(os.getppid(), 'colorsys' in sys.modules, flush=True); time.sleep(600)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "IMPORTS", ())
        patch.setattr(local, "TRAIN", (sys.executable, str(run)))
        said = engine.ask(asked, ["--a"], "given", 2) if asks else None
    with lock([tmp_path / "out"]) as held:
        engine.begin(2, held)
        job = SimpleNamespace(command=(sys.executable, str(run)), arguments=[], log=tmp_path / "log.txt")
        job.log.touch()
        forked = engine.start([job])[0]  # type: ignore[list-item]
    deadline = time.monotonic() + 60
    while not job.log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if asks:
        assert said is not None
        assert said.split() == ["['--a']", "given", job.log.read_text().split()[0], str(tmp_path)]
    assert job.log.read_text().split()[1] == str(asks)
    with (tmp_path / "out/.lock").open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    forked.signal(signal.SIGKILL)
    engine.close()


@pytest.mark.parametrize("no_fork", [[], ["--no_fork"]])
def test_each_of_the_runs_beside_each_other_has_gpus_of_its_own(
    no_fork: list[str],
    config: Config,
    fit: list[str],
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b,MIG-c")
    path = config("a", start=0.9, seconds=0.2)
    arguments = [str(path), "--seeds", *"0123456", "--output", str(tmp_path / "out"), "--cpus_per_job", "3", *no_fork]
    assert commands.run("compare", arguments, fit) == 0
    given = {line[1]: line[3] for line in journal() if line[2] == "CUDA_VISIBLE_DEVICES"}
    assert set(given.values()) == {"MIG-a", "MIG-b", "MIG-c"}
    assert {line[3] for line in journal() if line[2] == "threads"} == {"3"}
    busy: set[str] = set()
    for _, seed, event, *_ in journal():
        if event == "started":
            assert given[seed] not in busy
            busy.add(given[seed])
        elif event == "finished":
            busy.remove(given[seed])
    (tmp_path / "configs/method/journal.txt").unlink()
    none = [str(path), "--seeds", "0", "--output", str(tmp_path / "none"), "--gpus_per_job", "0", *no_fork]
    assert commands.run("compare", none, fit) == 0
    assert [line[3] for line in journal() if line[2] == "CUDA_VISIBLE_DEVICES"] == ["none"]
