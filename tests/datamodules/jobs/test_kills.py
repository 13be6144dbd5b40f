"""A job that is killed at any point and run again gives the same bytes as an uninterrupted job; no process hangs."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from datamodules.files.whole_files import write_text
from datamodules.jobs.cached_array import cached_array
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import RowStore, Store, array_files, csv_files, png_files, recordings
from lightning_modules.diffusion.golden_noise.collection import CollectsPairs
from lightning_modules.diffusion.noise_diffusion.interpolated_files import InterpolationSteps
from tests.datamodules.jobs.killing import Points, run_until, tree
from tests.two_processes import in_two_processes, start_two

ITEMS = 3
VALUES: dict[str, Any] = {
    "png": lambda item: np.full((1, 2, 3), item, dtype=np.uint8),
    "csv": lambda item: pd.DataFrame({"item": [item], "half": [item / 2]}),
    "array": lambda item: np.full((2, 2), item),
    "recording": lambda item: (np.full(8, item / 8, dtype=np.float32), 8000),
    "rows": lambda item: {"item": str(item), "half": str(item / 2)},
    "pairs": lambda item: (torch.full((2,), item / 3), torch.full((2,), item / 4), [item / 5], [item / 6]),
    "strips": lambda item: [np.full((1, 2, width), item, dtype=np.uint8) for width in (3, 3, 12)],
}


DIGESTS = [f"made from {item}" for item in range(ITEMS)]


def store_of(kind: str, folder: Path) -> Store:
    stores: dict[str, Any] = {
        "png": png_files,
        "csv": csv_files,
        "array": array_files,
        "recording": recordings,
        "rows": lambda folder: RowStore(folder, ["item", "half"]),
        "pairs": partial(CollectsPairs.store, None),  # one .npz file per item
        "strips": partial(InterpolationSteps.store, SimpleNamespace(positions=[0.25, 0.5])),  # several files per item
    }
    return stores[kind](folder)


def keys_of(kind: str) -> list[Any]:
    if kind == "rows":
        return list(range(ITEMS))
    return [{"recording": f"{item}.wav", "pairs": f"{item}_7"}.get(kind, f"{item}") for item in range(ITEMS)]


def run(kind: str, folder: Path, points: Points) -> None:
    """Compute all items of the job, and gather the results at the end."""

    def compute(positions: list[int]) -> Iterator[tuple[int, Any]]:
        for position in positions:
            points.pass_by()
            yield position, VALUES[kind](position)

    if kind == "cached":
        parts = lambda positions: ((each, VALUES["array"](each)) for each in positions)  # noqa: E731
        cached_array(folder, "x", {"a": 1}, ITEMS, parts)
        return
    store = store_of(kind, folder / "results")
    with ResumableMap(store, {"kind": kind}, folder / "settings.json") as job:
        job.run(keys_of(kind), compute, DIGESTS)
        job.peers.on_first_rank(lambda: gather(store, folder))


def gather(store: Store, folder: Path) -> None:
    if isinstance(store, RowStore):
        rows = store.rows()
        write_text(folder / "all", f"{[rows[item] for item in sorted(rows)]}")
    else:
        write_text(folder / "all", f"{sorted(path.name for path in store.folder.iterdir())}")


def fill(kind: str, folder: Path, points: Points) -> None:
    """Compute the items in batches in a loop, like code that iterates over data."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    keys = keys_of(kind)
    job = ResumableMap(store_of(kind, folder / "results"), {"kind": kind}, folder / "settings.json")
    job.open()
    for start in range(2 * rank, ITEMS, 2 * processes):
        batch = range(start, min(start + 2, ITEMS))
        points.pass_by()
        job.fill(
            [keys[item] for item in batch],
            lambda rows, batch=batch: [VALUES[kind](batch[row]) for row in rows],
            [DIGESTS[item] for item in batch],
        )
    job.close()


IN_LOOPS = ("pairs", "strips")
AS_OTHERS = ("array", "recording", "png")
"""Formats with the same store class as `csv` (without digests) or `pairs` (with digests); tested only nightly."""
CASES = [
    *(("run", kind) for kind in (*VALUES, "cached") if kind not in (*IN_LOOPS, *AS_OTHERS)),
    ("fill", "pairs"),
    *(pytest.param("fill", kind, marks=pytest.mark.nightly) for kind in ("png", "strips")),
    *(pytest.param("run", kind, marks=pytest.mark.nightly) for kind in AS_OTHERS),
]


def work(way: str, kind: str, folder: Path, points: Points) -> None:
    {"run": run, "fill": fill}[way](kind, folder, points)


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_one_process_that_is_killed_anywhere_goes_on(way: str, kind: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    count = run_until(None, partial(work, way, kind, whole))
    assert count > 3 * ITEMS
    for fatal in range(count):
        folder = tmp_path / str(fatal)
        run_until(fatal, partial(work, way, kind, folder))
        work(way, kind, folder, Points())
        assert tree(folder) == tree(whole), fatal


def one_of_two(way: str, kind: str, folder: str, victim: int, fatal: int | None) -> int:
    """Do the work of one of two processes (the victim kills itself at point `fatal`), and return the points passed."""
    points = Points(fatal if os.environ["RANK"] == str(victim) else None)
    dist.init_process_group("gloo")
    dist.barrier()  # an earlier kill would make the other process fail during group initialisation
    points.watch()
    work(way, kind, Path(folder), points)
    return points.count


def check_two(way: str, kind: str, directory: Path, every: int) -> None:
    """At each `every`-th point, kill one process or the other: the other reports the cause, and a rerun completes."""
    whole = directory / "whole"
    counts = in_two_processes(one_of_two, way, kind, str(whole), 0, None)
    for victim, count in enumerate(counts):
        assert count > 3
        for fatal in range(0, count, every):
            folder = directory / f"{victim}_{fatal}"
            processes = start_two(one_of_two, way, kind, str(folder), victim, fatal)
            try:
                outputs = [process.communicate(timeout=30)[0] for process in processes]
                codes = [process.returncode for process in processes]
            finally:
                for process in processes:
                    process.kill()
            assert codes[victim] == -signal.SIGKILL, (fatal, outputs)
            other = outputs[1 - victim]
            assert codes[1 - victim] in (0, 1), (victim, fatal, other)  # 0 if the work was already complete
            if codes[1 - victim]:
                assert f"PeerFailure: rank {victim} was killed" in other or "before this job began" in other, other
            in_two_processes(one_of_two, way, kind, str(folder), 0, None)
            if kind == "rows":  # the assignment to ranks depends on the remaining work
                assert (folder / "all").read_bytes() == (whole / "all").read_bytes()
            else:
                assert tree(folder) == tree(whole), (victim, fatal)


def test_of_two_processes_one_that_is_killed_is_named_and_both_go_on(tmp_path: Path) -> None:
    check_two("run", "csv", tmp_path, 16)


@pytest.mark.nightly
@pytest.mark.parametrize(("way", "kind"), CASES)
def test_of_two_processes_either_may_be_killed_anywhere(way: str, kind: str, tmp_path: Path) -> None:
    check_two(way, kind, tmp_path, 1)
