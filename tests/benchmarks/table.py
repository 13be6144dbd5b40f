"""The table of benchmarks; a run of some files replaces only the rows of these files."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from experiments.results import markdown


class Figure(NamedTuple):
    """One row: the measured quantity, its ratio and target, and the file, date and machine of the measurement."""

    name: str
    ratio: str
    target: str
    file: str
    day: str
    machine: str


HEADER = ["measured", "ratio", "target", "by", "on", "machine"]
MADE = "Ratios within one run, one thread. Those of two machines are not to be compared."


def updated(text: str, figures: Sequence[Figure]) -> str:
    """Update the table: new rows replace the rows of the same files in place, and all other rows are kept.

    Args:
        text: current table, including its last line.
        figures: newly measured rows.
    """
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    known = [Figure(*(cell.strip().replace("\\|", "|") for cell in row)) for row in rows[2:]]
    files = list(dict.fromkeys(figure.file for figure in [*known, *figures]))
    run = {figure.file for figure in figures}
    kept = [figure for figure in known if figure.file not in run]
    return f"{markdown(HEADER, sorted([*kept, *figures], key=lambda figure: files.index(figure.file)))}\n{MADE}\n"
