"""Atomic writing of files: neither a killed run nor a concurrent reader sees a partial file."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DamagedFile(ValueError):
    """Raised for a file that is truncated or was modified."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in write errors such as a full disk, since the system's own message does not.

    Raises:
        OSError: if the file cannot be written; the message names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path} could not be written: {error.strerror}; make room, or write elsewhere") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Context manager: yields a temporary path in the same folder, which replaces the file at the end.

    The temporary file keeps the suffix, by which writers recognise the format, and is hidden, so that listings ignore
    it. Each writer has its own temporary file; if several processes write the same file, the last one wins. On an error
    the temporary file is removed and the file stays unchanged.

    Args:
        path: path of the file; its folder is created if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}{path.suffix}")
    try:
        with naming(path):
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())  # a rename reaches the disk before what was written, if the power fails
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path, pattern: str = "**/*") -> None:
    """Remove partial files that killed writers of `whole_file` left in a folder, if their names match a pattern."""
    place, _, stem = pattern.rpartition("/")
    for partial in folder.glob(f"{place or '.'}/.{stem}.partial-*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text, in UTF-8, as a `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure as a `whole_file`, in the format given by the path's suffix."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi)
