"""Files that appear whole or not at all: a run that is killed, or a reader in between, finds no half of one.

The rest of the framework has the same in `lightning_modules/whole_files.py`: datasets import nothing from there, nor
that from here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside a file's own to write to, which takes the file's place at the end.

    It ends as the file does, so that writers that go by the name know the format, and is hidden, so that nobody reads
    it as one more of its kind. An error removes it and leaves the file as it was.

    Args:
        path: of the file; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
