"""`docs/gpu.md`: one section per card; a run replaces only the section of its card."""

import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.files.whole_files import write_text
from experiments.results import markdown
from tests.gpu.items import ITEMS
from tests.gpu.outcomes import DONE, Outcome
from tests.gpu.place import Row

HEAD = """# On a GPU

`make gpu` runs the measurements that need a GPU, in the order of the table below. Together they take about 40 minutes.
`python -m tests.gpu --minutes 9` stops after 9 minutes; repeat the command to resume. `--data FOLDER`, or the
environment variable `NOISEWORKS_DATA`, names the folder that contains `cifar10`. Each row is saved under `runs/gpu/`,
and this page is updated after each item. Do not compare numbers from different GPUs. Measurements on CPUs are in
[benchmarks](benchmarks.md).
"""
NEVER = "**Nothing has been measured on a GPU yet**: none was available."
REHEARSED = (
    "This is a rehearsal on the CPU and not a measurement. It runs the same code with small sizes, and proves only "
    "that the code runs. Its figures are omitted."
)
SECTION = re.compile(r"<!-- card (.+?):begin -->\n(.*?)<!-- card \1:end -->\n", re.DOTALL)
REHEARSAL = "rehearsal"


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of a page, keyed by the name of the card."""
    return dict(SECTION.findall(text))


def section(made: str, outcomes: Mapping[str, Outcome], rows: Mapping[str, list[Row]], rehearse: bool) -> str:
    """Write the section of one card.

    Args:
        made: date and machine.
        outcomes: outcome of each item.
        rows: rows of each item.
        rehearse: whether this is a rehearsal, whose figures are omitted.
    """
    states = [
        [item.title, f"{item.minutes:g}{' or more' if item.to_the_end else ''}", _state(outcomes.get(name), rows[name])]
        for name, item in ITEMS.items()
    ]
    text = f"{made}\n\n{markdown(['item', 'minutes on a GPU (estimate)', 'outcome'], states)}"
    if rehearse:
        return f"{REHEARSED}\n\n{text}"
    for name, item in ITEMS.items():
        if rows[name]:
            cells = [[row.name, row.figure, row.expected or "-", _verdict(row.ok)] for row in rows[name]]
            text += f"\n### {item.title}\n\n{markdown(['measured', 'figure', 'expected', 'verdict'], cells)}"
    return text


def _state(outcome: Outcome | None, rows: list[Row]) -> str:
    if outcome is None:
        return "not begun"
    wrong = sum(row.ok is False for row in rows)
    counted = f"{len(rows)} row{'s' * (len(rows) != 1)}" + (f", {wrong} not as expected" if wrong else "")
    return f"ended, {counted}" if outcome.state == DONE else f"{outcome.state}: {outcome.said}; {counted}"


def _verdict(ok: bool | None) -> str:
    return "-" if ok is None else "yes" if ok else "**no**"


def write_page(path: Path, card: str, text: str) -> None:
    """Insert a card's section into the page; the section of a rehearsal is shown only while no card has one."""
    sections = sections_of(path.read_text(encoding="utf-8")) if path.is_file() else {}
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
