import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.resumable import other_processes
from lightning_modules.resumable.other_processes import OtherProcesses, in_first_process


def trainer(rank: int = 0, world_size: int = 2, said: str | None = None) -> Any:
    """What a process sees; `said` is what the first one broadcasts, if it is another."""
    return SimpleNamespace(
        received_sigterm=False,
        global_rank=rank,
        local_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        strategy=SimpleNamespace(broadcast=lambda given: "run" if said is None else said),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes, "SECONDS_BETWEEN_LOOKS", 0.0)


def test_one_that_fails_is_named_to_those_that_wait(tmp_path: Path) -> None:
    def fail() -> None:
        with OtherProcesses(trainer(1), tmp_path):
            raise ZeroDivisionError("by zero")

    waiting = OtherProcesses(trainer(0), tmp_path).__enter__()
    waiting.check()
    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(RuntimeError, match=r"process 1 failed, and this one stops: ZeroDivisionError: by zero"):
        waiting.wait(lambda: False)
    with pytest.raises(RuntimeError, match="process 1 failed"):
        waiting.check()


def test_failures_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "failed_run_1").write_text("")
    with OtherProcesses(trainer(0), tmp_path) as waiting:
        waiting.check()
        (tmp_path / "failed_earlier_1").write_text("")  # as if storage still showed it
        waiting.check()
    assert not (tmp_path / "failed_run_0").exists()


def test_no_more_is_waited_for_once_files_are_there(tmp_path: Path) -> None:
    looks: list[int] = []
    with OtherProcesses(trainer(), tmp_path) as waiting:
        waiting.wait(lambda: len(looks) == 3, lambda: looks.append(1))
    assert len(looks) == 3


def test_a_process_ends_when_its_launcher_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtherProcesses(trainer(1), tmp_path) as launched, OtherProcesses(trainer(0), tmp_path) as first:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        with pytest.raises(RuntimeError, match="started this one is gone"):
            launched.check()
        first.check()  # it may outlive its shell


def test_a_process_ends_when_told_to_or_when_the_directory_is_gone(tmp_path: Path) -> None:
    given = trainer(0)
    (tmp_path / "rows").mkdir()
    with OtherProcesses(given, tmp_path / "rows") as waiting:
        (tmp_path / "rows").rmdir()
        with pytest.raises(RuntimeError, match="is gone"):
            waiting.check()
        given.received_sigterm = True
        with pytest.raises(SIGTERMException):
            waiting.check()


def test_what_the_first_process_raises_all_raise() -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        in_first_process(trainer(0), fail)
    with pytest.raises(RuntimeError, match="process 0 failed, and this one stops: ZeroDivisionError: by zero"):
        in_first_process(trainer(1, said="ZeroDivisionError: by zero"), fail)
    in_first_process(trainer(1, said=""), fail)
