"""Atomic writing of files.

A killed run leaves no partial file, and a concurrent reader sees none.
"""

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
    """Add the file name to errors of writing, such as a full disk.

    The message of the system lacks the name.

    Raises:
        OSError: if the file cannot be written. The message names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path} could not be written: {error.strerror}; make room, or write elsewhere") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path in the same folder.

    On exit, the temporary file replaces `path`.

    The temporary file is hidden from listings. It keeps the suffix, because writers infer the format from the suffix.
    Each writer has its own temporary file. If several processes write the same file, the last writer wins. On an error,
    the temporary file is removed and `path` is unchanged.

    Args:
        path: path of the file. A missing folder is created.
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
    """Remove partial files of killed `whole_file` writers from a folder.

    Only files whose names match a pattern are removed.
    """
    place, _, stem = pattern.rpartition("/")
    for partial in folder.glob(f"{place or '.'}/.{stem}.partial-*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically, in UTF-8.

    `whole_file` describes how.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure atomically, in the format given by the suffix of the path.

    `whole_file` describes how.
    """
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi)
