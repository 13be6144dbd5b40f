"""Paired timing: the two programs alternate, so that a drift of the machine's speed affects both.

`cost` measures a process.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.command import ROOT, environment


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def paired_ratio(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median over rounds of (time of ours) / (time of theirs), after one uncounted warm-up round."""
    ratios = [seconds(ours, clock) / seconds(theirs, clock) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])


def medians(works: Mapping[str, Callable[[], float]], rounds: int = 7) -> dict[str, float]:
    """Return the median of each function's result, run alternately in each round, after one uncounted warm-up round."""
    found = [{name: work() for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(each[name] for each in found) for name in works}


class Cost(NamedTuple):
    """Resources that a process used."""

    seconds: float
    """CPU time over all cores."""
    kib: int
    """Peak memory."""
    printed: str


def cost(*arguments: str) -> Cost:
    """Run Python from the project's root, and return the resources that the process used."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**environment(), "PYTHONPATH": paths}, stdout=file
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        file.seek(0)
        return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss, file.read())
