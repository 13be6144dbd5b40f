"""Each output has one owner, whose locks end with it and leave no file."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from datamodules.files.whole_files import new_folder, owned_folder, owned_path
from tests.two_processes import in_two_processes

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("owned", [owned_path, owned_folder])
def test_a_second_owner_is_rejected_by_the_name_of_the_output_and_of_the_first(owned, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(2):  # the lock ends with its context
        with owned(output):
            with pytest.raises(ValueError, match=rf"{output} is in use by process {os.getpid()} on .*: wait.* or flee"):
                owned(output, remedy="flee").__enter__()
            with owned(tmp_path / "other"):
                pass
    kept = {"out", "out/.lock", "other", "other/.lock"} if owned is owned_folder else set()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == kept


def test_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    ready, tell = FORK.Pipe(duplex=False)

    def hold() -> None:
        with owned_path(tmp_path / "a"), new_folder(tmp_path / "b") as partial:
            (partial / "half").touch()
            tell.send(None)
            signal.pause()

    process = FORK.Process(target=hold)
    process.start()
    ready.recv()
    for owned in (owned_path(tmp_path / "a"), new_folder(tmp_path / "b")):
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on "):
            owned.__enter__()
    process.kill()
    process.join()
    assert list(tmp_path.glob(".b.partial/half"))
    with owned_path(tmp_path / "a"), new_folder(tmp_path / "b") as partial:
        (partial / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "whole"]


def count_alone(folder: Path) -> int:
    """Count up in a file 200 times; a second owner at the same time would lose counts."""
    for _ in range(200):
        with owned_path(folder / "count", patience=60):
            count = int((folder / "count").read_text())
            (folder / "count").write_text(str(count + 1))
    return 200


def test_who_waits_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "count").write_text("0")
    assert in_two_processes(count_alone, tmp_path) == [200, 200]
    assert (tmp_path / "count").read_text() == "400"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """In the folder of somebody else, the link could lead to any file of the user, which would be emptied."""
    (tmp_path / "mine.txt").write_text("text")
    (tmp_path / "given").mkdir()
    for lock in (tmp_path / "given" / ".lock", tmp_path / "given" / ".table.csv.lock"):
        lock.symlink_to(tmp_path / "mine.txt")
    for owned in (owned_folder(tmp_path / "given"), owned_path(tmp_path / "given" / "table.csv")):
        with pytest.raises(ValueError, match=r"lock is a link, and is not followed: remove it"), owned:
            pass
    assert (tmp_path / "mine.txt").read_text() == "text"
