"""Arrays that are computed once, by all processes together, and kept on disk under the identity of what they come from.

An entry is a folder `<name>-<digest of its identity>` with `array.npy` and `manifest.json`, which says the identity in
words. It appears under its name only when it is complete. Where it is missing,

1. process 0 takes the lock `.<entry>.lock`, and waits while another run has it, which may bring the entry;
2. it makes the folder `<entry>.partial`, or finds it with the parts that a run left that was killed, and writes there,
   as `owner`, the token of this call; the other processes wait for the token, and do not mind that of an earlier run;
3. each process computes every `world_size`-th part, as far as it is missing, and gives it its name `part-<number>.npy`
   when all of it is on the disk;
4. process 0 waits for all parts, joins them to `array.npy`, writes the manifest, removes everything else, renames the
   folder to the entry, and lets go of the lock; the other processes wait for the entry;
5. all of them map the array, and refuse it if its manifest says another identity.

A process that fails in any of 1 to 4 leaves `.<entry>.failed-<token>-<rank>`, which those that wait raise.

Processes wait for files and not in collectives, whose patience ends after 30 minutes; on several nodes the folder must
be one that all of them see.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

POLL_SECONDS = 0.05
REPORT_SECONDS = 30.0
PATIENCE_SECONDS = 3600.0
Parts = Iterator[tuple[int, NDArray[Any]]]


def key_of(identity: dict[str, Any]) -> str:
    """Digest of an identity, which JSON can hold."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def cached_array(
    folder: Path,
    name: str,
    identity: dict[str, Any],
    num_parts: int,
    compute: Callable[[list[int]], Parts],
    rank: int = 0,
    world_size: int = 1,
    token: str | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> NDArray[Any]:
    """The array of an identity, computed if the cache does not have it. All processes call it.

    Args:
        folder: folder of the cache.
        name: name of the entry, before its digest.
        identity: description of all that the array is made from; whatever differs makes another entry.
        num_parts: the array is these parts, one after the other along its first axis.
        compute: given the numbers of this process's missing parts, yields each with its rows.
        rank: this process, which computes every `world_size`-th part.
        world_size: number of processes.
        token: the same on all processes and different in each call; needed where there are several.
        meanwhile: called while this process waits for others; what it raises ends the waiting.

    Returns:
        The array, mapped from its file and read only.

    Raises:
        ValueError: if the entry is damaged.
        RuntimeError: if another process failed.
        TimeoutError: if another process finishes no part for an hour.
    """
    entry = folder / f"{name}-{key_of(identity)}"
    if not entry.is_dir():
        token = token or uuid.uuid4().hex
        partial = entry.with_name(f"{entry.name}.partial")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if rank == 0:
                with _lock(entry):
                    if not entry.is_dir():
                        _say_why(folder, name, identity)
                        partial.mkdir(exist_ok=True)
                        for old in _failures(entry):
                            old.unlink()
                        _write(partial / "owner", token.encode())
                        _compute(partial, num_parts, compute, rank, world_size)
                        _wait(entry, partial, token, lambda: _num_done(partial) == num_parts, meanwhile)
                        _assemble(entry, partial, identity, num_parts)
            else:
                begun = lambda: entry.is_dir() or _text(partial / "owner") == token  # noqa: E731
                _wait(entry, partial, token, begun, meanwhile, patient=True)
                if not entry.is_dir():
                    _compute(partial, num_parts, compute, rank, world_size)
                    _wait(entry, partial, token, entry.is_dir, meanwhile)
        except BaseException as error:
            with contextlib.suppress(OSError):  # of a disk that is full, say: the error itself is what counts
                if not _failures(entry, token):
                    told = f"process {rank}: {type(error).__name__}: {error}"
                    _write(entry.with_name(f".{entry.name}.failed-{token}-{rank}"), told.encode())
            raise
    return _read(entry, identity)


@contextlib.contextmanager
def _lock(entry: Path) -> Iterator[None]:
    """Held by the run that computes an entry. It ends with the process, however that ends."""
    with entry.with_name(f".{entry.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rank_zero_info(f"Waiting for {entry}, which another run computes")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def _say_why(folder: Path, name: str, identity: dict[str, Any]) -> None:
    """Names what differs from the entry of the same name that is most alike."""
    wanted = _flat(identity)
    differences = []
    for manifest in folder.glob(f"{name}-*/manifest.json"):
        with contextlib.suppress(OSError, ValueError):
            have = _flat(json.loads(manifest.read_text()))
            keys = sorted(key for key in {*wanted, *have} if wanted.get(key) != have.get(key))
            differences.append((len(keys), f"{', '.join(keys)} differ from {manifest.parent}"))
    reason = min(differences)[1] if differences else f"{folder} has none"
    rank_zero_info(f"Computing {name}: {reason}")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for k, v in value.items() for name, leaf in _flat(v, f"{key}.{k}".lstrip(".")).items()}


def _failures(entry: Path, token: str = "") -> list[Path]:
    """List the notes of processes that failed, in a call or in any."""
    return [path for path in entry.parent.iterdir() if path.name.startswith(f".{entry.name}.failed-{token}")]


def _compute(partial: Path, num_parts: int, compute: Callable[[list[int]], Parts], rank: int, world_size: int) -> None:
    mine = range(rank, num_parts, world_size)
    missing = [number for number in mine if not _part(partial, number).is_file()]
    said = time.monotonic()
    for done, (number, rows) in enumerate(compute(missing), len(mine) - len(missing) + 1):
        temporary = partial / f".part-{number}.npy.tmp"
        with temporary.open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, _part(partial, number))
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            rank_zero_info(f"{partial.stem}: {done} of {len(mine)} parts")


def _part(partial: Path, number: int) -> Path:
    return partial / f"part-{number:06d}.npy"


def _num_done(partial: Path) -> int:
    return len(list(partial.glob("part-*.npy")))


def _wait(
    entry: Path,
    partial: Path,
    token: str,
    ready: Callable[[], bool],
    meanwhile: Callable[[], None],
    patient: bool = False,
) -> None:
    """Waits for the other processes of this run; `patient`, also for another run."""
    began, before = time.monotonic(), -1
    while not ready():
        meanwhile()
        for failed in _failures(entry, token):
            raise RuntimeError(f"{entry.name} could not be computed: {_text(failed)}")
        if (parts := _num_done(partial)) != before:
            began, before = time.monotonic(), parts
        if not patient and time.monotonic() - began > PATIENCE_SECONDS:
            raise TimeoutError(f"{partial} has no new part since an hour: has another process died?")
        time.sleep(POLL_SECONDS)


def _assemble(entry: Path, partial: Path, identity: dict[str, Any], num_parts: int) -> None:
    parts = [np.load(_part(partial, number), mmap_mode="r") for number in range(num_parts)]
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    array = np.lib.format.open_memmap(partial / "array.npy", mode="w+", dtype=parts[0].dtype, shape=shape)
    start = 0
    for part in parts:
        array[start : start + len(part)] = part
        start += len(part)
    array.flush()
    del array, parts
    _write(partial / "manifest.json", (json.dumps(identity, indent=2) + "\n").encode())
    for file in partial.iterdir():
        if file.name not in ("array.npy", "manifest.json"):
            file.unlink()
    os.replace(partial, entry)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text()
    return None


def _read(entry: Path, identity: dict[str, Any]) -> NDArray[Any]:
    remedy = "remove that folder to have it computed again"
    try:
        array = np.load(entry / "array.npy", mmap_mode="r")
        written = json.loads((entry / "manifest.json").read_text())
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{entry} is damaged ({error}): {remedy}") from error
    if written != json.loads(json.dumps(identity)):
        raise ValueError(f"{entry} holds another array than its name says: {remedy}")
    return array
