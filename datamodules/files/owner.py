"""Locks by which each output has one owner: the process that writes it, or the ranks of one job.

The operating system releases a lock when the process ends for any reason. A second process is rejected with a sentence
that names the output and the owner. File systems without locks are supported, but there nobody is rejected.
"""

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_info

from datamodules.files.whole_files import naming

POLL_SECONDS = 0.1
ANOTHER = "choose another --output"


@contextmanager
def owned_folder(folder: Path, patience: float = 0.0, remedy: str = ANOTHER) -> Iterator[int]:
    """Hold the lock of a folder, which is created if it does not exist. The lock is the file `.lock` in this folder.

    Args:
        folder: folder of the output.
        patience: time in seconds to wait for the owner.
        remedy: what to do other than to wait, for the error message.

    Yields:
        File descriptor of the lock. The folder stays locked as long as a process that inherits the descriptor exists.

    Raises:
        ValueError: if another process owns the folder. The message names the folder and the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _locked(folder / ".lock", folder, patience, remedy)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def owned_path(path: Path, patience: float = 0.0, remedy: str = ANOTHER) -> Iterator[None]:
    """Hold the lock of a file or of a new folder. The lock is a hidden file beside it, which is removed at the end.

    Args:
        path: file or folder, which need not exist.
        patience: time in seconds to wait for the owner.
        remedy: what to do other than to wait, for the error message.

    Raises:
        ValueError: if another process owns the path. The message names the path and the process.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device or a pipe, which may have several writers
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _beside(path, "lock")
    file = _locked(lock, path, patience, remedy)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is released: whoever opens the name afterwards makes a new file
        os.close(file)


def remove_lock(path: Path) -> None:
    """Remove the lock of a finished output, which is left if its owner was killed just after it had finished."""
    with suppress(OSError):
        _beside(path, "lock").unlink()


@contextmanager
def new_folder(folder: Path, remedy: str = ANOTHER) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, and rename it to `folder` at the end.

    If an error occurs, the hidden folder is removed. If the process is killed, the next call removes it.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: if another process writes the folder.
    """
    check_new(folder, remedy)
    with owned_path(folder, remedy=remedy):
        check_new(folder, remedy)  # its owner may have finished meanwhile
        partial = _beside(folder, "partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with naming(folder):
                partial.mkdir()
                yield partial
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_new(folder: Path, remedy: str = ANOTHER) -> None:
    """Reject the name of a new folder that is taken.

    Raises:
        FileExistsError: if a file, a link or a folder has this name.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists already, and is never overwritten: remove it, or {remedy}")


def _beside(path: Path, kind: str) -> Path:
    place = Path(os.path.abspath(path))  # "." has no name
    return place.with_name(f".{place.name}.{kind}")


def _locked(lock: Path, output: Path, patience: float, remedy: str) -> int:
    """Lock a file, write the name of this process to it, and return its descriptor."""
    deadline, waits = time.monotonic() + patience, False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            if time.monotonic() >= deadline:
                raise ValueError(f"{output} is in use by {owner}: wait for it to end, or {remedy}") from None
            if not waits:
                rank_zero_info(f"Waiting for {output}, which is in use by {owner}")
            waits = True
            time.sleep(POLL_SECONDS)
            continue
        except OSError:
            pass  # the file system does not support locks
        if _is_file(file, lock):
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            return file
        os.close(file)  # its owner has removed the file between the two calls


def _is_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
