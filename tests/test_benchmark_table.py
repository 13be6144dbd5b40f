"""A run of some benchmarks leaves the figures of the others where they are."""

from tests.benchmarks.table import Figure, updated


def test_rows_of_the_files_that_ran_are_replaced_and_others_stay() -> None:
    first = [Figure(f"a | {i}", "1", "<= 2", "test_a.py", "monday") for i in range(2)]
    other = Figure("b", "3", "-", "test_b.py", "monday")
    text = updated("", [*first, other], "a machine")
    assert updated(text, [], "a machine") == text
    again = updated(text, [Figure("a | 7", "4", "<= 2", "test_a.py", "tuesday")], "a machine")
    assert [line.split(" | ")[-1] for line in again.splitlines()[2:4]] == ["tuesday |", "monday |"]
    assert "a \\| 0" not in again
    assert again.endswith("Run on a machine.\n")


def test_rows_of_another_machine_are_not_kept() -> None:
    text = updated("", [Figure("a", "1", "-", "test_a.py", "monday")], "a machine")
    assert "test_a.py" not in updated(text, [Figure("b", "3", "-", "test_b.py", "monday")], "another")
