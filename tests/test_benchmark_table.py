"""A run of some benchmarks leaves the figures of the other benchmarks unchanged."""

from tests.benchmarks.table import Figure, updated


def test_rows_of_the_files_that_ran_are_replaced_and_others_stay() -> None:
    first = [Figure(f"a | {i}", "1", "<= 2", "test_a.py", "monday", "a machine") for i in range(2)]
    other = Figure("b", "3", "-", "test_b.py", "monday", "a machine")
    text = updated("", [*first, other])
    assert updated(text, []) == text
    again = updated(text, [Figure("a | 7", "4", "<= 2", "test_a.py", "tuesday", "another")])
    assert [line.split(" | ")[-2:] for line in again.splitlines()[2:4]] == [
        ["tuesday", "another |"],
        ["monday", "a machine |"],
    ]
    assert "a \\| 0" not in again
