"""What a job rejects, reports and leaves unchanged; kills are tested in `test_kills.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch.distributed as dist

from datamodules.distributed.collectives import rank
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import csv_files
from tests.two_processes import in_two_processes

KEYS = ["a", "b", "c", "d", "e"]


def job_in(folder: Path, **settings: Any) -> ResumableMap:
    return ResumableMap(csv_files(folder / "tables"), {"size": 3} | settings, folder / "settings.json")


def run(folder: Path, fails_at: int | None = None, **settings: Any) -> list[int]:
    """Run a job, and return the positions that it computed."""
    computed: list[int] = []

    def compute(positions: list[int]) -> Iterator[tuple[int, pd.DataFrame]]:
        for position in positions:
            if position == fails_at:
                raise ZeroDivisionError("by zero")
            computed.append(position)
            yield position, pd.DataFrame({"position": [position]})

    with job_in(folder, **settings) as job:
        job.run(KEYS, compute)
    return computed


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, fails_at=2)
    assert run(tmp_path) == [2, 3, 4]
    (tmp_path / "tables" / "d.csv").unlink()
    assert run(tmp_path) == [3]
    assert run(tmp_path) == []


def test_results_of_other_settings_are_rejected_by_name(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="tables was made with size 3, and this run has 4: use another directory"):
        run(tmp_path, size=4)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "settings.json").unlink()
    with pytest.raises(
        ValueError, match=r"tables has results, but .*settings\.json, which records their settings, is missing"
    ):
        run(tmp_path)


def test_settings_without_results_are_replaced(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, fails_at=0)
    assert run(tmp_path, size=4) == [0, 1, 2, 3, 4]


def test_a_batch_is_filled_where_it_lacks_results(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(positions: list[int]) -> list[pd.DataFrame]:
        asked.append(positions)
        return [pd.DataFrame({"position": [position]}) for position in positions]

    job = job_in(tmp_path)
    job.open()
    assert job.fill(KEYS[:2], compute) == ["a", "b"]
    assert job.fill(KEYS[1:4], compute) == ["c", "d"]
    assert job.fill(KEYS[:4], compute) == []
    job.close()
    assert asked == [[0, 1], [1, 2]]


def of_two(folder: Path, way: str) -> Any:
    dist.init_process_group("gloo")
    try:
        if way == "shares":
            return run(folder)
        if way == "settings":  # the settings of the first rank apply
            return run(folder, size=3 + rank())
        if way == "rejected":
            return run(folder, size=5)
        if way == "together":
            with job_in(folder) as job:
                tables = lambda positions: ((each, pd.DataFrame({"by": [rank()]})) for each in positions)  # noqa: E731
                job.run(KEYS, tables, together=True)
            return None
        with job_in(folder) as job:  # only one rank has this batch, and fails in it
            if rank():
                job.fill(["a"], lambda positions: [1 // 0])
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def test_two_ranks_share_what_is_left(tmp_path: Path) -> None:
    assert in_two_processes(of_two, tmp_path, "shares") == [[0, 2, 4], [1, 3]]
    for key in "bde":
        (tmp_path / "tables" / f"{key}.csv").unlink()
    assert in_two_processes(of_two, tmp_path, "settings") == [[1, 4], [3]]
    first, other = in_two_processes(of_two, tmp_path, "rejected")
    assert first.startswith("ValueError: the content of ")
    assert other == f"PeerFailure: rank 0 failed: {first}"


def test_items_that_all_ranks_compute_together_are_written_by_the_first(tmp_path: Path) -> None:
    in_two_processes(of_two, tmp_path, "together")
    assert {path.read_text() for path in (tmp_path / "tables").iterdir()} == {"by\n0\n"}


def test_an_error_in_a_batch_ends_the_rank_that_waits(tmp_path: Path) -> None:
    first, other = in_two_processes(of_two, tmp_path, "batch")
    assert other.startswith("ZeroDivisionError")
    assert first == f"PeerFailure: rank 1 failed: {other}"
