"""Find the folder of a dataset, or create the folder for downloads."""

import os
from pathlib import Path


def data_directory(data_dir: str | None, name: str) -> Path:
    """Return the folder of a dataset.

    If `data_dir` is None, the folder is the value of the environment variable NOISEWORKS_DATA.

    Args:
        data_dir: the configured folder, or None.
        name: name of the dataset, for error messages.
    """
    given = data_dir if data_dir is not None else os.environ.get("NOISEWORKS_DATA")
    if not given:
        raise FileNotFoundError(
            f"{name}: set data_dir, or the environment variable NOISEWORKS_DATA, to the folder of the dataset"
        )
    source = "data_dir" if data_dir is not None else "NOISEWORKS_DATA"
    directory = Path(given).expanduser()
    if not directory.exists():
        raise FileNotFoundError(f"{name}: {source} {directory} does not exist; set it to the dataset's folder")
    if not directory.is_dir():
        raise NotADirectoryError(f"{name}: {source} {directory} is a file; set it to the dataset's folder")
    return directory


def download_directory(data_dir: str | None) -> Path:
    """Create the download folder: `data_dir` if given, else the path in NOISEWORKS_DATA if set, else `data`."""
    directory = Path(data_dir or os.environ.get("NOISEWORKS_DATA") or "data").expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    return directory
