"""Every benchmark is a ratio; together they are a table at the end of the run, and `runs/benchmarks.csv`."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

FIGURES: list[tuple[str, float, str]] = []


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
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
