"""The folder in which a data set is looked for."""

import os
from pathlib import Path


def data_directory(data_dir: str | None, name: str) -> Path:
    """The folder that holds a data set: `data_dir`, or where the environment variable NOISEWORKS_DATA points.

    Args:
        data_dir: the configured folder, or None.
        name: name of the data set, for messages.

    Raises:
        FileNotFoundError: if neither is given, or the folder does not exist.
        NotADirectoryError: if it is a file.
    """
    given = data_dir if data_dir is not None else os.environ.get("NOISEWORKS_DATA")
    if not given:
        raise FileNotFoundError(
            f"{name}: set data_dir, or the environment variable NOISEWORKS_DATA, to the folder that holds the set"
        )
    source = "data_dir" if data_dir is not None else "NOISEWORKS_DATA"
    directory = Path(given).expanduser()
    if not directory.exists():
        raise FileNotFoundError(f"{name}: {source} {directory} does not exist; set it to the folder that holds the set")
    if not directory.is_dir():
        raise NotADirectoryError(f"{name}: {source} {directory} is a file; set it to the folder that holds the set")
    return directory


def download_directory(data_dir: str | None) -> Path:
    """Make the folder of a download: `data_dir`, else the one that NOISEWORKS_DATA names, else `data`."""
    directory = Path(data_dir or os.environ.get("NOISEWORKS_DATA") or "data").expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    return directory
