"""Timing in pairs: one and the other in turn, so that a drift of the machine's speed touches both."""

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 7) -> float:
    """Median over rounds of (time of ours) / (time of theirs), after one round that is not counted."""
    ratios = [seconds(ours) / seconds(theirs) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])
