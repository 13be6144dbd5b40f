"""Files that appear whole or not at all: a run that is killed, or a reader in between, finds no half of one."""

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
    """Raised for a file that was not written to its end, or was changed since."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file that is written where the disk is full: the system's own message does not.

    Raises:
        OSError: says which file could not be written, and why.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path} could not be written: {error.strerror}; make room, or write elsewhere") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside a file's own to write to, which takes the file's place at the end.

    It ends as the file does, so that writers that go by the name know the format, and is hidden, so that nobody reads
    it as one more of its kind. Each writer has its own: of several processes that write the same file the last one
    counts. An error removes it and leaves the file as it was.

    Args:
        path: path of the file; its folder is made if it is missing.
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
    """Remove what killed writers have left of each `whole_file` of a folder that has a pattern's name."""
    place, _, stem = pattern.rpartition("/")
    for partial in folder.glob(f"{place or '.'}/.{stem}.partial-*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text, in UTF-8, as a `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Saves a figure, in the format that the path's end names, as a `whole_file`."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi)
