"""What became of each item, kept in `items.json` beside the rows, so that a later command skips what has ended."""

import json
from pathlib import Path
from typing import NamedTuple

from datamodules.files.whole_files import write_text

DONE, FAILED, SKIPPED, STOPPED = "ended", "failed", "skipped", "stopped"


class Outcome(NamedTuple):
    """How an item ended.

    Args:
        state: one of the words of this file.
        said: why, in a sentence; empty where it ended.
        minutes: that it took.
    """

    state: str
    said: str = ""
    minutes: float = 0.0


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Read what is kept in a folder; nothing if a file is damaged."""
    path = folder / "items.json"
    if not path.is_file():
        return {}
    try:
        return {name: Outcome(*each) for name, each in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError):
        return {}


def keep_outcome(folder: Path, name: str, outcome: Outcome) -> None:
    """Keep how an item ended."""
    known = read_outcomes(folder) | {name: outcome}
    write_text(folder / "items.json", json.dumps(known, indent=1))
