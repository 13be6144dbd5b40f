import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.array_cache import cached_array, key_of

NUMBERS, ROWS = 8, 3


fork = multiprocessing.get_context("fork")


def part(number: int) -> np.ndarray:
    return np.arange(number * ROWS * 2, (number + 1) * ROWS * 2, dtype=np.float32).reshape(ROWS, 2)


def computed(folder: Path, rank: int = 0, world: int = 1, seconds: float = 0.0, fails: bool = False) -> np.ndarray:
    def compute(numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            time.sleep(seconds)
            if fails:
                raise OSError("no such image")
            with (folder / "journal").open("a") as journal:
                journal.write(f"{number}\n")
            yield number, part(number)

    token = "of this run" if world > 1 else None
    return cached_array(folder / "cache", "x", {"a": 1}, NUMBERS, compute, rank, world, token)


def journal(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "journal").read_text().split()] if (folder / "journal").exists() else []


WHOLE = np.arange(NUMBERS * ROWS * 2, dtype=np.float32).reshape(-1, 2)


def test_processes_share_the_parts_and_compute_each_once(tmp_path: Path) -> None:
    others = [fork.Process(target=computed, args=(tmp_path, rank, 3)) for rank in (1, 2)]
    for other in others:
        other.start()
    assert np.array_equal(computed(tmp_path, 0, 3), WHOLE)
    for other in others:
        other.join(600)
        assert other.exitcode == 0
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))


def test_what_was_killed_leaves_no_torn_entry_and_its_parts_are_kept(tmp_path: Path) -> None:
    process = fork.Process(target=computed, args=(tmp_path, 0, 1, 0.1))
    process.start()
    while len(journal(tmp_path)) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    entry = tmp_path / "cache" / f"x-{key_of({'a': 1})}"
    assert not entry.exists()
    before = journal(tmp_path)
    assert np.array_equal(computed(tmp_path), WHOLE)
    after = journal(tmp_path)[len(before) :]
    assert len(after) < NUMBERS
    assert not set(after) & set(before[:-1])  # the last one may have been killed before it was written


def test_two_runs_at_once_compute_an_entry_once(tmp_path: Path) -> None:
    processes = [fork.Process(target=computed, args=(tmp_path, 0, 1, 0.02)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))
    assert np.array_equal(computed(tmp_path), WHOLE)


def test_the_failure_of_one_process_is_told_to_the_others(tmp_path: Path) -> None:
    other = fork.Process(target=computed, args=(tmp_path, 1, 2, 0.0, True))
    other.start()
    with pytest.raises(RuntimeError, match="process 1: OSError: no such image"):
        computed(tmp_path, 0, 2)
    other.join(600)
    assert not list((tmp_path / "cache").glob("x-*/manifest.json"))
    assert np.array_equal(computed(tmp_path), WHOLE)  # the failure is not held against the next run


@pytest.mark.parametrize("when", ["before the token", "while parts are joined"])
def test_any_failure_of_process_0_is_told_to_the_others(when: str, tmp_path: Path) -> None:
    entry = tmp_path / "cache" / f"x-{key_of({'a': 1})}"
    if when == "before the token":
        entry.parent.mkdir()
        entry.with_name(f"{entry.name}.partial").touch()  # is no folder
    else:
        unlike = entry.with_name(f"{entry.name}.partial")
        unlike.mkdir(parents=True)
        np.save(unlike / "part-000003.npy", np.zeros((ROWS, 5), dtype=np.float32))
    told = multiprocessing.SimpleQueue()

    def wait() -> None:
        try:
            computed(tmp_path, 1, 2)
        except RuntimeError as error:
            told.put(str(error))

    other = fork.Process(target=wait, daemon=True)
    other.start()
    with pytest.raises((FileExistsError, ValueError)) as failure:
        computed(tmp_path, 0, 2)
    other.join(600)
    assert other.exitcode == 0
    name = type(failure.value).__name__
    assert told.get() == f"{entry.name} could not be computed: process 0: {name}: {failure.value}"


def test_a_damaged_entry_is_refused_by_name(tmp_path: Path) -> None:
    computed(tmp_path)
    (array,) = (tmp_path / "cache").glob("x-*/array.npy")
    array.write_bytes(array.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{array.parent} is damaged"):
        computed(tmp_path)
    (array.parent / "manifest.json").write_text(json.dumps({"a": 2}))
    np.save(array, WHOLE)
    with pytest.raises(ValueError, match="holds another array than its name says"):
        computed(tmp_path)
