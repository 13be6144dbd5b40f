"""Find the folder of a dataset and the files to predict, or create the folder for downloads."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from datamodules.files.text_files import read_text

Paths = str | list[str]
"""A path, or a list of paths. A file that ends with .txt contains a list, with one path per line."""


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


def listed_paths(given: str | Path | Sequence[str | Path], key: str) -> list[Path] | None:
    """Return the paths of a list without repetitions, or None if one path is given that is not a text file.

    Args:
        given: path, list of paths, or text file with one path per line. Relative paths are relative to the working
            directory.
        key: name of the argument that specifies the paths, for error messages.
    """
    if isinstance(given, str | Path):
        table = Path(given).expanduser()
        if table.suffix.lower() != ".txt" or table.is_dir():
            return None
        try:
            given = read_text(table).splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"{key}: {table} is not a text file with one path per line ({error})") from error
    lines = [str(line).strip() for line in given]
    paths = [Path(os.path.abspath(os.path.expanduser(line))) for line in dict.fromkeys(lines) if line]
    if not paths:
        raise ValueError(f"{key}: the list is empty; give the path of at least one file")
    return list(dict.fromkeys(paths))


def given_files(
    given: str | Path | Sequence[str | Path], key: str, names_in: Callable[[Path], Sequence[str]]
) -> tuple[Path, list[str]]:
    """Return a folder, and the names of the given files relative to it.

    Files of a list are named relative to the deepest folder that contains all of them, in the order of the list.
    Missing files of a list are kept, so that their reader reports them together with the damaged ones.

    Args:
        given: folder, file, list of files and folders, or text file with one path per line.
        key: name of the argument that specifies the paths, for error messages.
        names_in: function that returns the names of the files in a folder. It rejects a path that is not a folder.
    """
    paths = listed_paths(given, key)
    if paths is None:
        path = Path(str(given)).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{key}: {path} does not exist; give a file, a folder, or a list of them (.txt)")
        return (path.parent, [path.name]) if path.is_file() else (path, list(names_in(path)))
    files = [path / name for path in paths for name in (names_in(path) if path.is_dir() else [""])]
    root = Path(os.path.commonpath([file.parent for file in files]))
    return root, list(dict.fromkeys(file.relative_to(root).as_posix() for file in files))
