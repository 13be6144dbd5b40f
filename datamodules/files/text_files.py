"""Reading of text files, and of JSON files that contain one object."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datamodules.files.limits import check_is_file

LARGEST = 1 << 26
"""Maximum size of a JSON file in bytes. The vocabulary files of tokenizers are about ten times smaller."""

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
"""JSON files that transformers reads from the folder of a pretrained model. Each file must contain one JSON object."""


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark."""
    check_is_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text."""
    try:
        found = json.loads(text)
        if re.search(rb"\\u[dD][89a-fA-F]", text.encode(errors="replace") if isinstance(text, str) else text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply ({error})") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!a} is half of a character") from error
    return found


def read_json_object(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Args:
        path: JSON file.
        needed: required keys.
    """
    check_is_file(path)
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size} bytes; a JSON configuration may have at most {LARGEST} bytes")
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must contain a JSON object, got a {type(found).__name__}")
    if missing := [key for key in needed if key not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return found


def check_pretrained_json(folder: Path) -> None:
    """Check the JSON files that transformers may read from a local folder.

    If such a file exists, it must contain a JSON object.
    """
    for name in PRETRAINED:
        if (file := folder / f"{name}.json").exists():
            read_json_object(file)
