"""Record the time and the peak memory of a run in its `usage.csv`, one row for each process that trained or tested.

A process writes its row when it ends; a killed process writes none. With several processes, the first is recorded.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.results import read_csv, write_results

FILE = "usage.csv"
COLUMNS = ("seconds", "cpu_seconds", "mebibytes", "gpu_mebibytes")
MEBIBYTE = 2**20


def _now() -> tuple[float, float]:
    """Return the clock, and the CPU seconds of this process and of its ended children, such as data workers."""
    return time.monotonic(), sum(os.times()[:4])


def measure() -> Callable[[Path], None]:
    """Begin to measure. The returned function adds what was used since then to `usage.csv` in a run directory."""
    begun = _now()

    def write(directory: Path) -> None:
        import torch  # a local import, because commands that read this file have a fast --help

        spent = [round(now - before, 2) for now, before in zip(_now(), begun, strict=True)]
        unit = 1 if sys.platform == "darwin" else 1024  # of the peak of the resident memory
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        rows = [[row.get(name, "") for name in COLUMNS] for row in read_csv(directory / FILE)]
        own = [str(each) for each in (*spent, peak // MEBIBYTE, gpu // MEBIBYTE)]
        write_results(directory / FILE, COLUMNS, [*rows, own])

    return write


def read_usage(directory: Path) -> dict[str, float]:
    """Read what a run has used: the sums of its seconds and the largest of its peaks. It is empty if not recorded."""
    rows = read_csv(directory / FILE)
    return {name: (sum if "seconds" in name else max)(float(row[name]) for row in rows) for name in COLUMNS if rows}
