"""Stores for the results of a job.

A store has one file or one table row per item.

Writes are atomic. If a writer is killed, each item has either a complete result or no result. File formats that allow
metadata also store a digest of each result's inputs.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.distributed.collectives import rank
from datamodules.files.audio_files import digest_in, write_recording
from datamodules.files.png import digest_in_png, write_png
from datamodules.files.whole_files import DamagedFile, remove_partial_files, whole_file, write_csv

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str]


class Store(Protocol):
    """Interface of stores that keep one result per item key."""

    folder: Path

    def is_empty(self) -> bool:
        """Return whether the store has no results."""
        ...

    def tidy(self) -> None:
        """Remove partial files left behind by killed writers.

        Rank 0 calls this method before any rank writes.
        """
        ...

    def missing(self, keys: Sequence[Any], digests: Sequence[str] | None = None) -> list[int]:
        """List the positions of the keys that have no result yet.

        Args:
            keys: keys of the items.
            digests: one digest of the inputs per item.

        Raises:
            ValueError: if the inputs of an item have changed since the result was stored.
        """
        ...

    def write(self, key: Any, value: Any, digest: str = "") -> None:
        """Store a result."""
        ...

    def close(self) -> None:
        """Close open files."""
        ...


def digest_of(*tensors: Tensor) -> str:
    """Hash the shapes and values of tensors, which may be on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


class Files:
    """Store with one file per item: `<key><suffix>` in a folder or its subfolders.

    Args:
        folder: folder of the files.
        suffix: suffix of file names. Use an empty string if the keys include the suffix.
        write: function that writes a value and the digest of its inputs to a path, atomically with `whole_file`.
        digest_in: function that reads the digest of the inputs from a file, and raises `DamagedFile` if the file is
            damaged. None means that the file format has no digests.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        write: Callable[[Path, Any, str], None],
        digest_in: Callable[[Path], str | None] | None = None,
    ) -> None:
        self.folder = folder
        self.suffix = suffix
        self._write = write
        self._digest_in = digest_in

    def path(self, key: str) -> Path:
        """Return the file of an item."""
        return self.folder / f"{key}{self.suffix}"

    def is_empty(self) -> bool:
        found = self.folder.rglob(f"*{self.suffix}") if self.folder.is_dir() else ()
        return not any(path.is_file() and not path.name.startswith(".") for path in found)

    def tidy(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(self.folder)

    def missing(self, keys: Sequence[str], digests: Sequence[str] | None = None) -> list[int]:
        missing = []
        for position, key in enumerate(keys):
            path = self.path(key)
            if not path.is_file():
                missing.append(position)
            elif digests is not None and self._digest_in is not None:
                try:
                    found = self._digest_in(path)
                except DamagedFile as error:
                    from lightning.pytorch.utilities import rank_zero_warn

                    rank_zero_warn(f"{error}: it is written again")
                    missing.append(position)
                    continue
                if found != digests[position]:
                    raise ValueError(
                        f"{path} was written for other input data: remove it, or write into another run directory"
                    )
        return missing

    def write(self, key: str, value: Any, digest: str = "") -> None:
        self._write(self.path(key), value, digest)

    def close(self) -> None:
        pass


def png_files(folder: Path) -> Files:
    """Return a store of uint8 or uint16 images `[C, H, W]` in PNG files."""
    return Files(folder, ".png", write_png, digest_in_png)


def recordings(folder: Path) -> Files:
    """Return a store of pairs (signal in [-1, 1], sample rate) as audio files.

    The suffix of a key sets the audio format of its file.
    """

    def write(path: Path, recording: tuple[NDArray[Any], int], digest: str) -> None:
        write_recording(path, *recording, digest)

    return Files(folder, "", write, digest_in)


def csv_files(folder: Path) -> Files:
    """Return a store of tables as CSV files."""

    def write(path: Path, table: "pd.DataFrame", digest: str) -> None:
        write_csv(path, table)

    return Files(folder, ".csv", write)


def array_files(folder: Path) -> Files:
    """Return a store of arrays as `.npy` files."""

    def write(path: Path, array: NDArray[Any], digest: str) -> None:
        with whole_file(path) as partial:
            np.save(partial, array)

    return Files(folder, ".npy", write)


class RowStore:
    """Store with one row of text per item, for items that are too small for separate files.

    Each rank appends to its own `rank<number>.tsv`, and flushes after every row. If a killed writer left an incomplete
    last line, this line is ignored.

    Args:
        folder: folder of the files.
        columns: names of the columns. The first column is the key, an integer.
        varying: names of the columns that may differ between two rows of the same item.
    """

    def __init__(self, folder: Path, columns: Sequence[str], varying: Collection[str] = ()) -> None:
        self.folder = folder
        self.columns = columns
        self.compared = [column for column in columns if column not in varying]
        self._file: TextIO | None = None

    def is_empty(self) -> bool:
        return not self.rows()

    def tidy(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def missing(self, keys: Sequence[int], digests: Sequence[str] | None = None) -> list[int]:
        rows = self.rows()
        return [position for position, key in enumerate(keys) if key not in rows]

    def rows(self) -> dict[int, Row]:
        """Read the rows of all ranks into a dict by key.

        Raises:
            ValueError: if a line is damaged, or if two rows of an item differ in a column that is not in `varying`.
        """
        rows: dict[int, Row] = {}
        for path in sorted(self.folder.glob("rank*.tsv")):
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    lines = file.read().split("\n")[:-1]
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is damaged ({error}): remove it, and its items are computed again") from error
            for number, line in enumerate(lines[1:], start=2):
                fields = line.split("\t")
                if len(fields) != len(self.columns) or not re.fullmatch("[0-9]{1,18}", fields[0]):
                    raise ValueError(f"line {number} of {path} is damaged: remove it, and its item is computed again")
                row = dict(zip(self.columns, fields, strict=True))
                other = rows.setdefault(int(fields[0]), row)
                if any(row[column] != other[column] for column in self.compared):
                    raise ValueError(f"{self.folder} has two different rows of {self.columns[0]} {fields[0]}")
        return rows

    def write(self, key: int, row: Mapping[str, str], digest: str = "") -> None:
        if self._file is None:
            self._file = self._open(self.folder / f"rank{rank()}.tsv")
        self._file.write("\t".join(row[column] for column in self.columns) + "\n")
        self._file.flush()

    def _open(self, path: Path) -> TextIO:
        """Open a file for appending after its last complete line."""
        written = path.read_bytes() if path.is_file() else b""
        whole = written[: written.rfind(b"\n") + 1]
        file = path.open("r+" if path.is_file() else "w", newline="", encoding="utf-8")
        file.truncate(len(whole))
        file.seek(len(whole))
        if not whole:
            file.write("\t".join(self.columns) + "\n")
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
