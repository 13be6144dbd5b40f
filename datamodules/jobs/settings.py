"""Record the settings of a job next to its results.

A later run with different settings is rejected, and the error message lists the differences.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from datamodules.files.whole_files import write_text

DIGEST = re.compile(r"[0-9a-f]{16,64}")
"""Pattern of a hash. Error messages do not print hashes."""


def key_of(settings: dict[str, Any]) -> str:
    """Hash settings (JSON values), for use in a folder name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write settings atomically to a JSON file."""
    write_text(path, json.dumps(settings, indent=2) + "\n")


def stored_settings(path: Path) -> dict[str, Any] | None:
    """Read a settings file, or return None if the file does not exist.

    Raises:
        ValueError: if the file is damaged. The message names the file.
    """
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: it must be a JSON object; remove it and the results next to it") from None


def reject_other_settings(found: dict[str, Any], settings: dict[str, Any], results: str, remedy: str) -> None:
    """Raise an error if existing results were computed with different settings.

    Args:
        found: recorded settings of the existing results.
        settings: settings of this run.
        results: noun in the singular that describes the existing results in the error message.
        remedy: advice on what to do instead, for the error message.

    Raises:
        ValueError: if settings differ. The message lists all differences. Digests that differ are listed last, without
            their values.
    """
    settings = json.loads(json.dumps(settings))
    values, digests = [], []
    for key in sorted({*found, *settings}):
        there, here = found.get(key, "not set"), settings.get(key, "not set")
        if there == here:
            continue
        if DIGEST.fullmatch(str(there)) and DIGEST.fullmatch(str(here)):
            digests.append(f"other {key}")
        else:
            values.append(f"{key} {there!r}, and this run has {here!r}")
    if differing := values + digests:
        raise ValueError(f"{results} was made with {'; with '.join(differing)}: {remedy}")
