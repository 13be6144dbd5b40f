"""The table of methods by strategy, precision and option in docs/clusters.md is complete and correct."""

import re

import pytest

from tests.command import ROOT
from tests.conformance.settings_matrix import (
    SETTINGS,
    WORKS,
    Outcome,
    classes,
    measured,
    on_page,
    page,
    read_page,
    write,
)


def test_the_table_has_every_class_and_a_sentence_where_something_does_not_work() -> None:
    table = on_page()
    missing = classes().keys() ^ table.keys()
    assert not missing, f"python -m tests.conformance.settings_matrix {' '.join(sorted(missing))} writes their rows"
    said = {cell.said for cells in table.values() for cell in cells.values()} - {WORKS}
    assert all(len(each.split()) > 4 for each in said)
    assert not [each for each in said if re.match(r"\w+(Error|Exception): |hangs|the process died|\[", each)]


def test_each_class_is_sharded_or_has_a_reason() -> None:
    section = (ROOT / "docs/machines.md").read_text().partition("## Sharding")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in section.splitlines() if re.match(r"\| [A-Z]", line)]
    said = {kind: reason.strip() for kinds, reason in cells for kind in kinds.strip().split(", ")}
    assert said.keys() == on_page().keys()
    assert sum(len(kinds.split(", ")) for kinds, _ in cells) == len(said)
    for kind, row in on_page().items():
        assert said[kind].startswith("yes") == (row["FSDP2"].said == WORKS), kind


def test_the_table_is_read_as_it_is_written() -> None:
    why = {
        "ddp": Outcome("it works in one process: run seeds in parallel. No more"),
        "EMA": Outcome("another reason why"),
    }
    table = {"ELR": dict.fromkeys(SETTINGS, Outcome(WORKS)), "LSA": dict.fromkeys(SETTINGS, Outcome(WORKS)) | why}
    known = {kind: cells for kind, cells in table.items() if kind in classes()}
    assert read_page(page(table)) == known
    assert page(table).count("another reason why") == 1


@pytest.mark.nightly
@pytest.mark.parametrize("kind", sorted(classes()))
def test_the_table_is_written_and_was_true(kind: str) -> None:
    before, now = on_page().get(kind), {column: Outcome(cell.said) for column, cell in measured(kind).items()}
    write(kind, now)
    assert now == before, "docs/clusters.md says now what was found: look whether that is better"
