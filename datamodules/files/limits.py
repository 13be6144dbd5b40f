"""Checks of every reader of files of others: regular files, the memory that one may take, the range of its numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUDGET, BUDGET_RATIO = 1 << 30, 100
"""Bytes that a file may take in memory, and how many for each of its own; the larger one counts."""
DEFLATE_LIMIT = 1040
"""Bytes that one byte of a deflated file can become, at most."""


def sentence(error: BaseException) -> str:
    """Put what a library says into one line, of at most 400 letters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 400 else f"{said[:400]} ..."


def check_is_file(path: Path) -> None:
    """Reject what opening would wait for or fail on.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is a folder, a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")


def check_unpacked(path: Path, size: int) -> None:
    """Reject a file that unpacks to more than a budget: 100 bytes for each of the file, or 1 GiB.

    Args:
        path: the file.
        size: bytes that its content takes in memory.

    Raises:
        ValueError: says both sizes; the caller names the file.
    """
    stored = path.stat().st_size
    if size > (most := max(BUDGET, BUDGET_RATIO * stored)):
        raise ValueError(f"it unpacks to {size} bytes, more than {most} for a file of {stored}")


def whole_numbers(values: Any, least: int, most: int, path: Path, what: str) -> NDArray[np.int64]:
    """Give numbers as int64, or reject the first that is not whole or lies outside its range.

    Args:
        values: any array or sequence of numbers.
        least: smallest number that is allowed.
        most: largest one.
        path: the file that they come from.
        what: what one of them is, as `label`.

    Raises:
        ValueError: names the file, the value and its position, from 0.
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
            f"{path} has the {what} {flat[place]} at {place}; it must be a whole number in {least} ... {most}"
        )
    return found.astype(np.int64)
