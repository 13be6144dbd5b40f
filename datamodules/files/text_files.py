"""Text files of others, such as lists of names and labels."""

from pathlib import Path

from datamodules.files.array_files import check_is_file


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names a file in another encoding, or a pipe.
    """
    check_is_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
