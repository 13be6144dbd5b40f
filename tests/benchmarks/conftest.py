"""Every benchmark is a ratio; together they are a table at the end of the run, `runs/benchmarks.csv` and in the README.

python -m pytest -m benchmark --override-ini addopts=-ra tests/benchmarks --readme README.md
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from experiments.pages import replace_section, split_readme
from experiments.results import markdown
from experiments.run_request import machine

FIGURES: list[tuple[str, float, str]] = []


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
def report() -> Callable[[str, float, str], None]:
    """Records what was measured, the figure, and the target it is held to."""

    def record(name: str, figure: float, target: str) -> None:
        FIGURES.append((name, figure, target))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not FIGURES:
        return
    terminalreporter.section("speed and memory, as ratios in one run")
    for name, figure, target in FIGURES:
        terminalreporter.write_line(f"{figure:10.3f}   target {target:10s} {name}")
    table = Path("runs", "benchmarks.csv")
    table.parent.mkdir(exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "ratio", "target"])
        writer.writerows(FIGURES)
    if readme := config.getoption("--readme"):
        rows = [[name.strip(), f"{figure:.3g}", target or "-"] for name, figure, target in FIGURES]
        where = machine()
        made = f"Ratios within one run, one thread. Run on {where['date']}, {where['machine']}, torch {where['torch']}."
        replace_section(readme, "benchmarks", f"{markdown(['measured', 'ratio', 'target'], rows)}\n{made}\n")
