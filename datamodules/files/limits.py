"""Checks of untrusted files: type of file, size in memory, and range of numbers."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BUDGET, BUDGET_RATIO = 1 << 30, 100
"""Memory budget of a file: `BUDGET` bytes, or `BUDGET_RATIO` times the file's size, whichever is larger."""
DEFLATE_LIMIT = 1040
"""Largest expansion factor of deflate compression."""


class StatFile(Protocol):
    """A `pathlib.Path`, or a file on a server with these methods of it."""

    def exists(self) -> bool: ...
    def is_file(self) -> bool: ...
    def stat(self) -> Any: ...


def sentence(error: BaseException) -> str:
    """Format the error message of a library as one line of at most 400 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 400 else f"{said[:400]} ..."


def check_is_file(path: StatFile) -> None:
    """Reject a path that is not a regular file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")


def check_unpacked(path: StatFile, size: int) -> None:
    """Reject a file whose unpacked size exceeds both 1 GiB and 100 times the size of the file.

    Args:
        path: packed file.
        size: size of the unpacked content in memory, in bytes.

    Raises:
        ValueError: if the content is too large. The message contains both sizes, but not the name of the file, which
            the caller must add.
    """
    stored = path.stat().st_size
    if size > (most := max(BUDGET, BUDGET_RATIO * stored)):
        raise ValueError(
            f"it unpacks to {size} bytes, more than the limit of {most} bytes for a file of {stored} bytes"
        )


def to_int64(values: Any, least: int, most: int, path: Path, what: str) -> NDArray[np.int64]:
    """Convert numbers to int64, and reject numbers that are not integers or out of range.

    Args:
        values: any array or sequence of numbers.
        least: smallest allowed number.
        most: largest allowed number.
        path: file that contains the numbers, for error messages.
        what: name of the numbers in error messages, such as `label`.

    Raises:
        ValueError: if a number is invalid. The message names the file, the value and its position, counted from 0.
    """
    found = np.asarray(values)
    if found.dtype.kind == "b" or (found.dtype.kind not in "iuf" and found.size):
        raise ValueError(f"{path} has {what}s of type {found.dtype}; they must be whole numbers")
    flat = found.ravel()
    with np.errstate(invalid="ignore"):
        wrong = ~((flat >= least) & (flat <= most) & (np.floor(flat) == flat))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"{path} has the {what} {flat[place]} at position {place}; it must be a whole number in {least} ... {most}"
        )
    return found.astype(np.int64)
