"""`docs/gpu.md`: one section per card; a run replaces only the section of its card."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from datamodules.files.whole_files import write_text
from experiments.results import markdown

HEAD = """# On a GPU

`make gpu` runs the measurements that need a GPU, the most valuable first; together they take about 40 minutes. It may
be stopped at any time: repeat the command to continue, and what failed is measured again. The environment variable
`NOISEWORKS_DATA` names the folder that contains `cifar10`. This page is updated after each measurement. Do not compare
numbers from different GPUs. Measurements on CPUs are in [benchmarks](benchmarks.md).
"""
NEVER = "**Nothing has been measured on a GPU yet**: none was available."
REHEARSED = (
    "This is a rehearsal on the CPU and not a measurement. It runs the same code with small sizes, and proves only "
    "that the code runs. Its figures are omitted."
)
SECTION = re.compile(r"<!-- card (.+?):begin -->\n(.*?)<!-- card \1:end -->\n", re.DOTALL)
REHEARSAL = "rehearsal"
PASSED = "passed"


class Measured(TypedDict):
    """What a test has measured.

    Args:
        title: heading on the page, which several tests may share.
        outcome: `passed`, or `failed` or `skipped` with the reason.
        rows: name, figure, expected figure, and whether the figure is as expected; see `tests.gpu.place.Row`.
    """

    title: str
    outcome: str
    rows: list[list[Any]]


def section(made: str, tests: Iterable[Measured]) -> str:
    """Write the section of one card; `made` states machine and date. A rehearsal's figures are omitted."""
    titles: dict[str, list[Measured]] = {}
    for each in tests:
        titles.setdefault(each["title"], []).append(each)
    rows = {title: [row for each in found for row in each["rows"]] for title, found in titles.items()}
    states = [[title, _state(found, len(rows[title]))] for title, found in titles.items()]
    text = f"{made}\n\n{markdown(['measurement', 'outcome'], states)}"
    if made.startswith(REHEARSAL):
        return f"{REHEARSED}\n\n{text}"
    for title in filter(rows.__getitem__, titles):
        cells = [[name, figure, expected or "-", _verdict(ok)] for name, figure, expected, ok in rows[title]]
        text += f"\n### {title}\n\n{markdown(['measured', 'figure', 'expected', 'verdict'], cells)}"
    return text


def _state(tests: list[Measured], rows: int) -> str:
    reasons = [each["outcome"] for each in tests if each["outcome"].startswith("failed") or not rows]
    return "; ".join([*dict.fromkeys(reasons), f"{rows} row{'s' * (rows != 1)}"])


def _verdict(ok: bool | None) -> str:
    return "-" if ok is None else "yes" if ok else "**no**"


def write_page(path: Path, card: str, text: str) -> None:
    """Insert a card's section into the page; the section of a rehearsal is shown only while no card has one."""
    sections = dict(SECTION.findall(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    sections[card] = text
    cards = {name: one for name, one in sections.items() if name != REHEARSAL} or sections
    head = HEAD + (f"\n{NEVER}\n" if REHEARSAL in cards else "")
    written = "".join(
        f"\n## {name.capitalize() if name == REHEARSAL else name}\n\n"
        f"<!-- card {name}:begin -->\n{one}<!-- card {name}:end -->\n"
        for name, one in cards.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, head + written)
