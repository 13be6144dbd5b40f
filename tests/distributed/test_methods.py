"""For every method, two processes give the weights, state, metrics and tables of one process, to 1e-10 in float64.

Global batches are uneven, including the last ones. All random draws are enabled.
"""

from pathlib import Path

import pytest

from tests.conformance.runs import assert_alike, class_path, methods, rows, run, state, tables, written
from tests.nightly import nightly_beyond
from tests.two_processes import in_two_processes

METHODS = methods()
ROWS = nightly_beyond({class_path(method): name for name, method in reversed(METHODS.items())}.values(), METHODS)
"""Classes with several rows have one in the default suite."""
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("name", ROWS)
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 2)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["elr", "mahalanobis", "score_sde"])  # one process has none of its images
def test_four_processes_equal_one(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 4)


def compare(name: str, tmp_path: Path, processes: int) -> None:
    """Train and test a row with one process and with several, and compare all their output."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = written(name, tmp_path, {**METHODS[name].alike, "trainer.precision": "64-true"})
    tests = str(METHODS[name].tests).lower()
    command = ("fit", "--config", settings, "--test_after_fit", tests, "--run_directory")
    run(*command, one)
    more = ("--trainer.devices", str(processes), "--trainer.strategy", METHODS[name].strategy)
    if METHODS[name].alone:
        with pytest.raises(AssertionError, match="run seeds in parallel instead"):
            in_two_processes(run, *command, two, *more)
        return
    in_two_processes(run, *command, two, *more, count=processes)
    ours, theirs = state(two), state(one)
    for key in theirs.keys() - {"callbacks", "loops", "metrics_table"}:  # the tables have their results
        assert_alike(theirs[key], ours[key], key, 1e-10)
    assert tables(one).keys() == tables(two).keys()
    for table, path in tables(one).items():
        first, second = rows(path), rows(tables(two)[table])
        assert len(first) == len(second), table
        for row, other in zip(first, second, strict=True):
            row.pop("weights", None), other.pop("weights", None)  # a digest
            assert row == pytest.approx(other, abs=METHODS[name].accuracy, nan_ok=True), table
    for path in sorted(one.rglob("pseudo_labels/*/*.png")):
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes(), path.name
    if "images" in theirs:
        assert 0 < theirs["images"]["is_noisy"].sum() < len(theirs["images"]["is_noisy"])
