"""Paired timing: the two programs alternate, so that a drift of the machine's speed affects both."""

import statistics
import time
from collections.abc import Callable, Mapping


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
