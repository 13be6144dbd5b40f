"""Atomic writing of files.

A killed run leaves no partial file under the final name, and concurrent readers never read a partial file.
"""

import csv
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class DamagedFile(ValueError):
    """Raised for a file that is truncated or was modified."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file name to errors that occur while writing, such as the error of a full disk.

    The operating system's message does not contain the name.

    Raises:
        OSError: if the file cannot be written. The message names the file and the reason.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number_in(error)
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{path} could not be written: {os.strerror(number)}; free some space, or use a different disk"
        ) from error


def _number_in(error: Exception) -> int | None:
    """Return the number of the operating system's error in the message of an error of safetensors."""
    found = re.search(r"\(os error ([0-9]+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return None if found is None else int(found[1])


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder as `path`.

    When the `with` block ends, the temporary file replaces `path`.

    The temporary file is hidden. It has the suffix of `path`, because libraries infer the format from the suffix. Each
    writer has its own temporary file. If several processes write the same file, the last writer wins. On an error, the
    temporary file is removed and `path` is unchanged.

    Args:
        path: path of the file. A missing folder is created. A pipe or a device is never replaced: it is yielded itself,
            so that the content is written to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with naming(path):
            yield path
        return
    partial = path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}{path.suffix}")
    try:
        with naming(path):
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())  # otherwise, after a power failure, the file may be renamed but empty
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path, pattern: str = "**/*") -> None:
    """Remove the partial files that killed processes have left in a folder (see `whole_file`).

    A partial file is removed only if the name of the file that it was to become, without its suffix, matches the
    pattern.
    """
    place, _, stem = pattern.rpartition("/")
    for partial in folder.glob(f"{place or '.'}/.{stem}.partial-*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically, in UTF-8.

    For details, see `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def csv_text(table: "pd.DataFrame", **options: Any) -> str:
    """Convert a table to CSV, without its index.

    If a text contains a carriage return, all texts are quoted. Otherwise readers would take it for the end of a row.
    """
    text = table.to_csv(index=False, **options)
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, **options) if "\r" in text else text


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to a CSV file atomically.

    For details, see `csv_text` and `whole_file`.
    """
    write_text(path, csv_text(table))


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure atomically, in the format given by the suffix of the path.

    For details, see `whole_file`.
    """
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi)
