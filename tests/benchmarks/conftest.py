"""Each benchmark measures a ratio. At its end, a run prints all ratios, and writes `runs/benchmarks.csv` and a page.

python -m pytest -m benchmark --override-ini addopts=-ra tests/benchmarks --readme docs/benchmarks.md

If only some files run, `--readme` replaces only the rows of these files.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from experiments.pages import replace_section, split_readme
from experiments.run_request import machine
from tests.benchmarks.table import Figure, updated

FIGURES: list[tuple[str, float, str, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--readme", type=Path, help="file whose section `benchmarks` is replaced by what is measured")


def pytest_configure(config: pytest.Config) -> None:
    if readme := config.getoption("--readme"):
        split_readme(readme, "benchmarks")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, float, str], None]:
    """Record the measured quantity, its value, and its target."""

    def record(name: str, figure: float, target: str) -> None:
        FIGURES.append((name, figure, target, request.path.name))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not FIGURES:
        return
    terminalreporter.section("speed and memory, as ratios in one run")
    for name, figure, target, _ in FIGURES:
        terminalreporter.write_line(f"{figure:10.3f}   target {target:10s} {name}")
    table = Path("runs", "benchmarks.csv")
    table.parent.mkdir(exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "ratio", "target", "file"])
        writer.writerows(FIGURES)
    if readme := config.getoption("--readme"):
        made = machine()
        where = f"{made['machine']}, torch {made['torch']}"
        rows = [
            Figure(name.strip(), f"{figure:.3g}", target or "-", file, made["date"], where)
            for name, figure, target, file in FIGURES
        ]
        before, _ = split_readme(readme, "benchmarks")
        text = readme.read_text(encoding="utf-8")[len(before) :]
        replace_section(readme, "benchmarks", updated(text, rows))
