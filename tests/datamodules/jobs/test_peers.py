"""How ranks detect the end of other ranks; kills are tested in `test_kills.py`."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.distributed.collectives import rank
from datamodules.jobs import peers
from datamodules.jobs.peers import PeerFailure, Peers
from tests.two_processes import in_two_processes


def ended(folder: Path, act: Any) -> str:
    """Perform an action together with the other processes, and return the result or the error of this process."""
    dist.init_process_group("gloo")
    try:
        with Peers(folder) as all_ranks:
            return str(act(all_ranks, folder))
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def meets(all_ranks: Peers, folder: Path) -> list[int]:
    """Let the ranks arrive at different times in three rounds, and return the first rank's result of each round."""
    found = []
    for number in range(3):
        time.sleep(0.1 * rank())
        if rank():
            (folder / f"{number}_{rank()}").touch()
        found.append(all_ranks.on_first_rank(lambda: len(list(folder.iterdir()))))
    return found


def test_the_first_rank_acts_when_all_have_come_and_all_return_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    assert in_two_processes(ended, tmp_path / "job", meets, count=3) == ["[2, 4, 6]"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


def fails(all_ranks: Peers, folder: Path) -> None:
    if rank() == 2:
        raise ZeroDivisionError("by zero\nin two lines")
    all_ranks.wait(lambda: False)


def test_one_that_fails_is_the_cause_that_all_report(tmp_path: Path) -> None:
    said = in_two_processes(ended, tmp_path / "job", fails, count=3)
    assert said == ["PeerFailure: rank 2 failed: ZeroDivisionError: by zero\nin two lines"] * 2 + [
        "ZeroDivisionError: by zero\nin two lines"
    ]


def fails_first(all_ranks: Peers, folder: Path) -> None:
    all_ranks.on_first_rank(lambda: 1 // 0)


def test_what_the_first_rank_raises_all_report(tmp_path: Path) -> None:
    first, other = in_two_processes(ended, tmp_path / "job", fails_first)
    assert first.startswith("ZeroDivisionError: ")
    assert other == f"PeerFailure: rank 0 failed: {first}"


def leaves_late(all_ranks: Peers, folder: Path) -> float:
    time.sleep(0.5 * rank())
    if rank():
        folder.touch()
    return 0.0


def test_the_first_rank_leaves_last(tmp_path: Path) -> None:
    in_two_processes(ended, tmp_path / "job", leaves_late)
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


def no_folder(all_ranks: Peers, folder: Path) -> None:
    pass


def test_a_folder_that_cannot_be_made_is_reported_by_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, other = in_two_processes(ended, tmp_path / "file" / "job", no_folder)
    assert first.startswith("FileExistsError: ")
    assert other == f"PeerFailure: rank 0 failed: {first}"


def elsewhere(folder: Path) -> str:
    """Use a different folder on rank 1, as if the ranks had no shared storage."""
    return ended(folder / "first" / "job" if os.environ["RANK"] == "0" else folder / "second" / "job", no_folder)


def test_storage_that_is_not_shared_is_reported_by_all(tmp_path: Path) -> None:
    first, other = in_two_processes(elsewhere, tmp_path)
    assert "must be on storage that all processes share" in other
    assert other.startswith("FileNotFoundError: ")
    assert first == f"PeerFailure: rank 1 failed: {other}"


def test_folders_of_runs_that_were_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".job.ranks-1").mkdir()
    (tmp_path / ".job.ranks-1" / "rank_0").write_text("arrived\n")
    (tmp_path / ".other.ranks-2").mkdir()
    time.sleep(0.02)
    with Peers(tmp_path / "job"):
        time.sleep(0.02)
        (tmp_path / ".job.ranks-3").mkdir()  # belongs to a run that is starting
    assert sorted(path.name for path in tmp_path.iterdir()) == [".job.ranks-3", ".other.ranks-2"]


def test_no_more_is_waited_for_once_it_is_there(tmp_path: Path) -> None:
    looks: list[int] = []
    with Peers(tmp_path / "job") as waiting:
        waiting.wait(lambda: len(looks) == 3, lambda: looks.append(1))
    assert len(looks) == 3


def test_a_run_that_is_told_to_end_does(tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException), Peers(tmp_path / "job", lambda: True) as waiting:
        waiting.wait(lambda: False)


@pytest.mark.parametrize(("local", "ends"), [("0", False), ("1", True)])
def test_a_process_ends_when_its_launcher_is_gone(
    local: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"broadcast": lambda said: said, "all_gather": lambda said: [said], "world_size": lambda: 2}
    for name, value in alone.items():
        monkeypatch.setattr(peers, name, value)
    monkeypatch.setenv("LOCAL_RANK", local)
    waiting = Peers(tmp_path / "job")
    waiting.open()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(PeerFailure, match="parent process of this rank has ended") if ends else nullcontext():
        waiting.check()  # the first process of a machine may outlive its shell
    waiting.fail(ValueError())
