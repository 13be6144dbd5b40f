"""Timing in pairs: one and the other in turn, so that a drift of the machine's speed touches both."""

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
    """Median over rounds of (time of ours) / (time of theirs), after one round that is not counted."""
    ratios = [seconds(ours, clock) / seconds(theirs, clock) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])


def medians(works: Mapping[str, Callable[[], float]], rounds: int = 7) -> dict[str, float]:
    """Median of what each work returns, done in turn in each round, after one round that is not counted."""
    found = [{name: work() for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(each[name] for each in found) for name in works}
