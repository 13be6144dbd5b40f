"""One thread: sums are then taken in one order, and the suite leaves the other core to the processes that it starts."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.two_processes import TwoProcesses, start_two

torch.set_num_threads(1)


@pytest.fixture
def two_processes() -> Iterator[TwoProcesses]:
    """Starts a function of a test module in two processes of one group; none of them outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(function: Callable[..., None], *arguments: Any) -> list[subprocess.Popen[str]]:
        started.extend(start_two(function, *arguments))
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()
