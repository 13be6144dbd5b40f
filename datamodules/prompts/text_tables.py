"""Tables of texts: JSON lines, or CSV with a line of names."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.files.limits import check_is_file


def entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the lines of a table, with what messages call each; a line that is JSON and no object is empty.

    Raises:
        ValueError: names a line that is not JSON, or the file if it is no table.
    """
    check_is_file(file)
    try:
        yield from _entries(file)
    except (csv.Error, UnicodeDecodeError) as error:  # of fields of more than 131,072 letters, and of another encoding
        raise ValueError(f"{file} cannot be read as a table of texts: {error}") from error


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as content:
        if file.suffix == ".csv":
            for number, row in enumerate(csv.DictReader(content), start=2):
                row.pop(None, None)  # values that no name stands for
                yield f"{file}, line {number}", row
            return
        for number, line in enumerate(content, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
            yield f"{file}, line {number}", entry if isinstance(entry, dict) else {}
