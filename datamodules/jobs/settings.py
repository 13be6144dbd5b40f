"""Settings of results, written once beside them: a run with other settings is rejected and told which differ."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datamodules.files.whole_files import write_text


def key_of(settings: dict[str, Any]) -> str:
    """Digest settings, which JSON can hold, for the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write settings as JSON, whole or not at all."""
    write_text(path, json.dumps(settings, indent=2) + "\n")


def stored_settings(path: Path) -> dict[str, Any] | None:
    """Read a file of settings; None where there is none.

    Raises:
        ValueError: names a damaged file.
    """
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: it must be a JSON object; remove it and the results beside it") from None


def reject_other_settings(found: dict[str, Any], settings: dict[str, Any], results: str, remedy: str) -> None:
    """Raise where results were made with other settings.

    Args:
        found: the settings that the results were made with.
        settings: what the results of this run depend on.
        results: the results that are there, for the message: a singular noun.
        remedy: what to do instead, for the message.

    Raises:
        ValueError: names all settings that differ.
    """
    settings = json.loads(json.dumps(settings))
    differing = [
        f"{key} {there!r}, and this run has {here!r}"
        for key in sorted({*found, *settings})
        if (there := found.get(key, "not set")) != (here := settings.get(key, "not set"))
    ]
    if differing:
        raise ValueError(f"{results} was made with {'; with '.join(differing)}: {remedy}")
