import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from datamodules.distributed.collectives import rank
from datamodules.jobs.cached_array import cached_array
from datamodules.jobs.peers import PeerFailure
from datamodules.jobs.settings import key_of
from tests.two_processes import in_two_processes

NUMBERS, ROWS = 8, 3


fork = multiprocessing.get_context("fork")


def part(number: int) -> np.ndarray:
    return np.arange(number * ROWS * 2, (number + 1) * ROWS * 2, dtype=np.float32).reshape(ROWS, 2)


def computed(folder: Path, seconds: float = 0.0, fails: bool = False) -> np.ndarray:
    def compute(numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            time.sleep(seconds)
            if fails:
                raise OSError("no such image")
            with (folder / "journal").open("a") as journal:
                journal.write(f"{number}\n")
            yield number, part(number)

    return cached_array(folder / "cache", "x", {"a": 1}, NUMBERS, compute)


def journal(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "journal").read_text().split()] if (folder / "journal").exists() else []


WHOLE = np.arange(NUMBERS * ROWS * 2, dtype=np.float32).reshape(-1, 2)


def one_of_several(folder: Path, failing: int | None = None) -> str | np.ndarray:
    """Return the array that this process reads, or its error message."""
    dist.init_process_group("gloo")
    try:
        return np.array(computed(folder, fails=rank() == failing))
    except (PeerFailure, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_processes_share_the_parts_and_compute_each_once(tmp_path: Path) -> None:
    for array in in_two_processes(one_of_several, tmp_path, count=3):
        assert np.array_equal(array, WHOLE)
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))


def test_two_runs_at_once_compute_an_entry_once(tmp_path: Path) -> None:
    processes = [fork.Process(target=computed, args=(tmp_path, 0.02)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))
    assert np.array_equal(computed(tmp_path), WHOLE)


@pytest.mark.parametrize("failing", [0, 1])
def test_the_failure_of_one_process_is_told_to_the_others(failing: int, tmp_path: Path) -> None:
    said = in_two_processes(one_of_several, tmp_path, failing)
    assert said[failing] == "OSError: no such image"
    assert said[1 - failing] == f"PeerFailure: rank {failing} failed: OSError: no such image"
    assert not (tmp_path / "cache" / f"x-{key_of({'a': 1})}").exists()
    assert np.array_equal(computed(tmp_path), WHOLE)  # the failure does not affect the next run


def test_a_damaged_entry_is_refused_by_name(tmp_path: Path) -> None:
    computed(tmp_path)
    (array,) = (tmp_path / "cache").glob("x-*/array.npy")
    array.write_bytes(array.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{array.parent} is damaged"):
        computed(tmp_path)
    (array.parent / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{array.parent} is damaged"):
        computed(tmp_path)
    (array.parent / "manifest.json").write_text(json.dumps({"a": 2}))
    np.save(array, WHOLE)
    with pytest.raises(ValueError, match="does not contain the array that its name describes"):
        computed(tmp_path)
