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
    """Return the median over rounds of (time of ours) / (time of theirs), after one uncounted warm-up round.

    The two take turns in being first, because the second may find memory and caches as the first has left them.
    """
    ratios = []
    for number in range(rounds + 1):
        spent = {work: seconds(work, clock) for work in ((ours, theirs) if number % 2 else (theirs, ours))}
        ratios.append(spent[ours] / spent[theirs])
    return statistics.median(ratios[1:])


def medians(works: Mapping[str, Callable[[], float]], rounds: int = 7) -> dict[str, float]:
    """Return the median of each function's result, in rounds of alternating order, after one uncounted warm-up."""
    found = [{name: works[name]() for name in list(works)[:: (-1) ** number]} for number in range(rounds + 1)][1:]
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
