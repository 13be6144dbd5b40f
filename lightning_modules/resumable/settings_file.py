"""Settings of kept results, written once beside them: a run with other settings is refused and told which differ.

Results that take hours are continued by whoever finds them. The file of settings holds all that they depend on, as
JSON, so that nobody adds results that were made in another way.
"""

import json
from pathlib import Path
from typing import Any

from datamodules.files.whole_files import write_text


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write settings as JSON, whole or not at all."""
    write_text(path, json.dumps(settings, indent=2) + "\n")


def stored_settings(path: Path) -> dict[str, Any] | None:
    """Read a file of settings; None where there is none.

    Raises:
        ValueError: names a file that is damaged.
    """
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: it must be a JSON object; remove it and the results beside it") from None


def refuse_other_settings(path: Path, settings: dict[str, Any], results: str, remedy: str) -> None:
    """Refuse to go on with results that were made with other settings.

    Args:
        path: file of the settings, which the first process has written.
        settings: what the results of this run depend on, as JSON values.
        results: the results that are there, for the message: a singular noun.
        remedy: what to do instead, for the message.

    Raises:
        FileNotFoundError: if this process does not see the file.
        ValueError: names all settings that differ.
    """
    found, settings = stored_settings(path), json.loads(json.dumps(settings))
    if found is None:
        raise FileNotFoundError(
            f"{path} was written by the first process and is not visible to this one: the run directory must be on "
            f"storage that all processes share"
        )
    differing = [
        f"{key} {there!r}, and this run has {here!r}"
        for key in sorted({*found, *settings})
        if (there := found.get(key, "not set")) != (here := settings.get(key, "not set"))
    ]
    if differing:
        raise ValueError(f"{results} was made with {'; with '.join(differing)}: {remedy}")
