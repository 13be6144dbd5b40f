"""Text files of others: lists of names and labels, and JSON files that hold one object."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datamodules.files.limits import check_is_file

LARGEST = 1 << 26
"""Bytes; lists of a tokenizer's tokens have a tenth."""

PRETRAINED = (
    "config",
    "generation_config",
    "preprocessor_config",
    "processor_config",
    "tokenizer",
    "tokenizer_config",
    "special_tokens_map",
    "added_tokens",
    "vocab",
)
"""Files in JSON of a pretrained folder that transformers reads; each is an object."""


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


def read_json_object(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read the object that a JSON file holds.

    Args:
        path: the file.
        needed: keys that it has to have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON, too large, holds something else or lacks a key, naming the file.
    """
    check_is_file(path)
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size} bytes; a configuration in JSON has at most {LARGEST}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    if missing := [key for key in needed if key not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return found


def check_pretrained_json(folder: Path) -> None:
    """Check that what transformers reads of a local folder are JSON objects; without a folder there is nothing.

    Raises:
        ValueError: names the first file that is none.
    """
    for name in PRETRAINED:
        if (file := folder / f"{name}.json").exists():
            read_json_object(file)
