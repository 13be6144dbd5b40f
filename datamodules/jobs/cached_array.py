"""Cache of arrays, each of which is computed once by all ranks together.

An array is cached on disk under a digest of its inputs.

A cache entry is a folder `<name>-<digest of its identity>` that contains `array.npy` and `manifest.json`. The manifest
contains the identity, which describes all inputs. Until the entry is complete, a `ResumableMap` stores the parts of the
array in `<entry>.partial`. Rank 0 then joins the parts, removes them and renames the folder. If several runs need the
same entry, one run computes it while the others wait for a lock.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.distributed.collectives import broadcast, rank
from datamodules.files.whole_files import owned_path, remove_lock, whole_file
from datamodules.jobs.peers import Peers, remove_ended_ranks
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.settings import key_of
from datamodules.jobs.stores import array_files

Parts = Iterator[tuple[int, NDArray[Any]]]


def cached_array(
    folder: Path,
    name: str,
    identity: dict[str, Any],
    num_parts: int,
    compute: Callable[[list[int]], Parts],
    told_to_end: Callable[[], bool] = lambda: False,
) -> NDArray[Any]:
    """Read the cached array that has a given identity, or compute the array if it is not cached.

    All ranks must call this function.

    Args:
        folder: folder of the cache. It must be on storage that all ranks share.
        name: first part of the cache entry's name, before the digest.
        identity: description of all inputs of the array, from which the digest is computed.
        num_parts: number of parts. The array is the concatenation of the parts along the first axis.
        compute: function that maps the indices of missing parts to an iterator of (index, rows of this part). It is
            called on each rank with a share of the indices.
        told_to_end: function that returns whether the run was asked to stop.

    Returns:
        The array, memory-mapped and read-only.

    Raises:
        ValueError: if the entry is damaged.
        PeerFailure: if another rank failed or was killed.
    """
    entry = folder / f"{name}-{key_of(identity)}"
    if not broadcast(entry.is_dir()):
        with Peers(entry, told_to_end) as peers, contextlib.ExitStack() as held:

            def begin() -> bool:
                held.enter_context(owned_path(entry, patience=math.inf))
                there = entry.is_dir()  # another run may have computed it meanwhile
                if not there:
                    _say_why(folder, name, identity)
                return there

            if not peers.on_first_rank(begin):
                _compute(entry, identity, num_parts, compute, peers)
    elif rank() == 0:
        remove_ended_ranks(entry, time.time_ns())  # left by a run that was killed after it had written the entry
        remove_lock(entry)
    return _read(entry, identity)


def _compute(
    entry: Path, identity: dict[str, Any], num_parts: int, compute: Callable[[list[int]], Parts], peers: Peers
) -> None:
    partial = entry.with_name(f"{entry.name}.partial")
    joined, parts = partial / "array.npy", [f"part-{number:06d}" for number in range(num_parts)]
    store = array_files(partial)

    def finish() -> None:
        if not joined.is_file():
            _join(joined, [store.path(part) for part in parts])
        for part in parts:
            store.path(part).unlink(missing_ok=True)
        os.replace(partial, entry)

    with ResumableMap(store, identity, partial / "manifest.json", name=entry.name, peers=peers) as job:
        if not peers.on_first_rank(joined.is_file):
            job.run(parts, compute)
        peers.on_first_rank(finish)


def _join(path: Path, parts: list[Path]) -> None:
    arrays = [np.load(part, mmap_mode="r") for part in parts]
    shape = (sum(len(part) for part in arrays), *arrays[0].shape[1:])
    with whole_file(path) as partial:
        whole = np.lib.format.open_memmap(partial, mode="w+", dtype=arrays[0].dtype, shape=shape)
        start = 0
        for array in arrays:
            whole[start : start + len(array)] = array
            start += len(array)
        whole.flush()


def _say_why(folder: Path, name: str, identity: dict[str, Any]) -> None:
    """Report which keys of the identity differ from those of the most similar cached entry with the same name."""
    wanted = _flatten(identity)
    differences = []
    for manifest in folder.glob(f"{name}-*/manifest.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if manifest.parent.suffix == ".partial":
                continue
            have = _flatten(json.loads(manifest.read_text()))
            keys = sorted(key for key in {*wanted, *have} if wanted.get(key) != have.get(key))
            differences.append((len(keys), f"{', '.join(keys)} differ from {manifest.parent}"))
    reason = min(differences)[1] if differences else f"{folder} has none"
    from lightning.pytorch.utilities import rank_zero_info

    rank_zero_info(f"Computing {name}: {reason}")


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for k, v in value.items() for name, leaf in _flatten(v, f"{key}.{k}".lstrip(".")).items()}


def _read(entry: Path, identity: dict[str, Any]) -> NDArray[Any]:
    remedy = "remove that folder to have it computed again"
    try:
        array = np.load(entry / "array.npy", mmap_mode="r")
        written = json.loads((entry / "manifest.json").read_text())
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise ValueError(f"{entry} is damaged ({error}): {remedy}") from error
    if written != json.loads(json.dumps(identity)):
        raise ValueError(f"{entry} does not contain the array that its name describes: {remedy}")
    return array
