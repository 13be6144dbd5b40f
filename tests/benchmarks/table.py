"""The table of the benchmarks, of which a run of some files replaces the rows of those files alone."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from experiments.results import markdown


class Figure(NamedTuple):
    """One row: what was measured, the ratio, what it is held to, and the file, the day and the machine of it."""

    name: str
    ratio: str
    target: str
    file: str
    day: str
    machine: str


HEADER = ["measured", "ratio", "target", "by", "on", "machine"]
MADE = "Ratios within one run, one thread. Those of two machines are not to be compared."


def updated(text: str, figures: Sequence[Figure]) -> str:
    """Write the table anew: the rows of the files that were run replace theirs, in their place, and others stay.

    Args:
        text: the table as it is, with its last line.
        figures: what was measured now.
    """
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    known = [Figure(*(cell.strip().replace("\\|", "|") for cell in row)) for row in rows[2:]]
    files = list(dict.fromkeys(figure.file for figure in [*known, *figures]))
    run = {figure.file for figure in figures}
    kept = [figure for figure in known if figure.file not in run]
    return f"{markdown(HEADER, sorted([*kept, *figures], key=lambda figure: files.index(figure.file)))}\n{MADE}\n"
