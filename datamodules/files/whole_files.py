"""Atomic writing of files and folders, each of which has one owner at a time.

A killed run leaves no partial file under the final name, and concurrent readers never read a partial file.

The owner of an output is the process that writes it, or all ranks of one job. It holds a lock, which the operating
system releases when the process ends for any reason. A second process is rejected with a sentence that names the output
and the owner. On file systems without locks, nobody is rejected.
"""

import csv
import errno
import fcntl
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


POLL_SECONDS = 0.1
ANOTHER = "choose another --output"


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


COLUMN = 3.25
"""Width of a column, in inches."""
LARGEST_FONT, SMALL_FONT = 8.0, 7.0
"""Font sizes, in points."""


def save_in_format(figure: "Figure", path: Path) -> None:
    """Save a figure in the format of its suffix. A PDF or SVG file has the width of a column and embeds its fonts.

    Args:
        figure: figure with a constrained layout. For a column, it is changed.
        path: path of the file.
    """
    from matplotlib import rc_context

    if path.suffix == ".png":
        save_figure(figure, path)
        return
    fit_column(figure)
    # Type 42 fonts are TrueType, which publishers require; the default, type 3, is not searchable in some viewers.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        save_figure(figure, path)


def fit_column(figure: "Figure") -> None:
    """Place the panels of a figure below each other in the width of a column, with fonts of at most 8 points."""
    import math
    import textwrap

    from matplotlib.text import Text

    for ax in [ax for ax in figure.axes if not ax.get_visible()]:
        figure.delaxes(ax)
    specs = [(ax, spec) for ax in figure.axes if (spec := ax.get_subplotspec()) is not None]  # not those of colour bars
    if specs:
        grid = specs[0][1].get_gridspec()
        shrinks = min(1.0, COLUMN * grid.ncols / figure.get_figwidth())
        height = figure.get_figheight() / grid.nrows * max(shrinks, 0.75)
        figure.set_size_inches(COLUMN, height * len(specs))
        column = figure.add_gridspec(len(specs), 1)
        for row, (ax, _) in enumerate(specs):
            ax.set_subplotspec(column[row, 0])
            ax.tick_params(labelleft=True, labelbottom=True)  # panels that shared an axis had no labels of their own
    for ax in figure.axes:
        ax.tick_params(labelsize=SMALL_FONT)
    for legend in list(figure.legends):
        handles = [each for each in legend.legend_handles if each is not None]
        names = [text.get_text() for text in legend.get_texts()]
        columns = max(1, math.floor(COLUMN / (0.6 + 0.07 * max(map(len, names), default=0))))
        legend.remove()
        figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=SMALL_FONT)
    for read, write in ((figure.get_supxlabel, figure.supxlabel), (figure.get_suptitle, figure.suptitle)):
        if note := read():
            write(textwrap.fill(note, 55), fontsize=SMALL_FONT)
    for text in figure.findobj(Text):
        text.set_fontsize(min(text.get_fontsize(), LARGEST_FONT))


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
    file = _lock(folder / ".lock", folder, patience, remedy)
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
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _beside(path, "lock")
    file = _lock(lock, path, patience, remedy)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is released: whoever opens the name afterwards makes a new file
        os.close(file)
        if is_new:
            with suppress(OSError):  # it is not empty if the output was written
                path.parent.rmdir()


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


def _lock(lock: Path, output: Path, patience: float, remedy: str) -> int:
    """Lock a file, write the name of this process to it, and return its descriptor."""
    deadline, waits = time.monotonic() + patience, False
    while True:
        if lock.is_symlink():
            raise ValueError(f"{lock} is a link, and is not followed: remove it")
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            if time.monotonic() >= deadline:
                raise ValueError(f"{output} is in use by {owner}: wait for it to end, or {remedy}") from None
            if not waits:
                from lightning.fabric.utilities.rank_zero import rank_zero_info  # slow, and `compare --help` reads this

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
