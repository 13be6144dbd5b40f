"""Outcome of each item, saved in `items.json` next to the rows, so that a later command skips finished items."""

import json
from pathlib import Path
from typing import NamedTuple

from datamodules.files.whole_files import write_text

DONE, FAILED, SKIPPED, STOPPED = "ended", "failed", "skipped", "stopped"


class Outcome(NamedTuple):
    """The outcome of an item.

    Args:
        state: one of the constants in this file.
        said: why the item is not finished, in one sentence; empty if it is finished.
        minutes: duration.
    """

    state: str
    said: str = ""
    minutes: float = 0.0


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Read the outcomes in a folder; if their file is missing or damaged, return an empty dictionary."""
    path = folder / "items.json"
    if not path.is_file():
        return {}
    try:
        return {name: Outcome(*each) for name, each in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError):
        return {}


def keep_outcome(folder: Path, name: str, outcome: Outcome) -> None:
    """Save the outcome of an item."""
    known = read_outcomes(folder) | {name: outcome}
    write_text(folder / "items.json", json.dumps(known, indent=1))
