"""Where a job keeps its results: a file for each item in some format, or a row.

An item has its result, whole, or none, whenever its writer is killed. What a result was made from is known by a digest
where the format has room for one.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from datamodules.distributed.collectives import rank
from datamodules.files.audio_files import digest_in, write_recording
from datamodules.files.png import digest_in_png, write_png
from datamodules.files.whole_files import DamagedFile, remove_partial_files, whole_file, write_text

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str]


class Store(Protocol):
    """Keeps the result of each item under its key."""

    folder: Path

    def is_empty(self) -> bool:
        """Tell whether there is no result."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers left. Rank 0 calls it, before any other writes."""
        ...

    def missing(self, keys: Sequence[Any], digests: Sequence[str] | None = None) -> list[int]:
        """List the positions of the keys that have no result yet.

        Args:
            keys: of items.
            digests: for each item a digest of what its result is made from.

        Raises:
            ValueError: if a result was made from something else than its item is now.
        """
        ...

    def write(self, key: Any, value: Any, digest: str = "") -> None:
        """Keep a result."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def digest_of(*tensors: Tensor) -> str:
    """Hash what a result is made from: tensors by their shapes and values, wherever they are."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


class Files:
    """A file for each item: `<key><suffix>` in a folder or the folders in it.

    Args:
        folder: of the files.
        suffix: end of their names; keys of files with other names carry it themselves.
        write: writes a value to a path as a `whole_file`, with the digest of what it was made from.
        digest_in: reads that digest, and raises `DamagedFile`; None of a format without.
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
        """Name the file of an item."""
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
                    rank_zero_warn(f"{error}: it is written again")
                    missing.append(position)
                    continue
                if found != digests[position]:
                    raise ValueError(
                        f"{path} was not made from what the data have under that name now: remove it, or write into "
                        f"another run directory"
                    )
        return missing

    def write(self, key: str, value: Any, digest: str = "") -> None:
        self._write(self.path(key), value, digest)

    def close(self) -> None:
        pass


def png_files(folder: Path) -> Files:
    """Keep images `[C, H, W]`, uint8 or uint16, as PNG."""
    return Files(folder, ".png", write_png, digest_in_png)


def recordings(folder: Path) -> Files:
    """Keep pairs of a signal in [-1, 1] and its samples a second, in the audio format that a key ends with."""

    def write(path: Path, recording: tuple[NDArray[Any], int], digest: str) -> None:
        write_recording(path, *recording, digest)

    return Files(folder, "", write, digest_in)


def csv_files(folder: Path) -> Files:
    """Keep tables as CSV."""

    def write(path: Path, table: "pd.DataFrame", digest: str) -> None:
        write_text(path, table.to_csv(index=False))

    return Files(folder, ".csv", write)


def array_files(folder: Path) -> Files:
    """Keep arrays as `.npy`."""

    def write(path: Path, array: NDArray[Any], digest: str) -> None:
        with whole_file(path) as partial:
            np.save(partial, array)

    return Files(folder, ".npy", write)


class Rows:
    """A row of text for each item: for items that a file each would cost more than they do.

    Each rank appends to its own `rank<number>.tsv`, and a row is handed to the operating system at once. A last line
    without an end, of a writer that was killed, is no row.

    Args:
        folder: of the files.
        columns: names of the columns; the first one is the key, a whole number.
        varying: columns in which two rows of one item may differ.
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
        """Read all rows by their keys, whoever wrote them.

        Raises:
            ValueError: if a line is damaged, or two rows of an item contradict each other.
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
        """Open a file at the end of its last whole line."""
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
