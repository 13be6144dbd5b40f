"""Read tables of texts from JSON lines, CSV with a header, or parquet."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.files.limits import check_is_file, check_unpacked, sentence
from datamodules.files.text_files import parse_json


def entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a table as a pair (location for error messages, dict).

    A JSON line that is not an object becomes an empty row.
    """
    check_is_file(file)
    if file.suffix == ".parquet":
        yield from _parquet_entries(file)
        return
    try:
        yield from _entries(file)
    except (csv.Error, UnicodeDecodeError) as error:  # a field exceeds 131,072 characters, or the encoding is not UTF-8
        raise ValueError(f"{file} cannot be read as a table of texts: {error}") from error


def _parquet_entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            check_unpacked(file, sum(table.metadata.row_group(n).total_byte_size for n in range(table.num_row_groups)))
            rows = table.read(use_threads=False).to_pylist()
    except Exception as error:  # Arrow raises many types of exceptions
        raise ValueError(f"{file} cannot be read as a table of texts: {sentence(error)}") from error
    yield from ((f"{file}, row {number}", row) for number, row in enumerate(rows))


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as content:
        if file.suffix == ".csv":
            for number, row in enumerate(csv.DictReader(content), start=2):
                row.pop(None, None)  # values without a column name
                yield f"{file}, line {number}", row
            return
        for number, line in enumerate(content, start=1):
            if not line.strip():
                continue
            try:
                entry = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
            yield f"{file}, line {number}", entry if isinstance(entry, dict) else {}
