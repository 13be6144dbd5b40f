"""Time of a sweep of short runs, relative to the same runs one after the other in a process with finished imports."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from experiments.launching.run_queue import TRAIN
from tests.command import ROOT, environment

pytestmark = pytest.mark.benchmark
DEMO = str(ROOT / "configs/elr/demo.yaml")
SHORT = ("--trainer.max_epochs", "12", "--trainer.enable_progress_bar", "false")


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time, and the CPU time (unaffected by other load) of this process and its finished children."""
    before, start = sum(os.times()[:4]), time.perf_counter()
    work()
    return sum(os.times()[:4]) - before, time.perf_counter() - start


@pytest.mark.parametrize(("settings", "seeds"), [(8, 3), (24, 3)])
def test_a_sweep_of_short_fits(
    settings: int, seeds: int, report: Callable[[str, float, str], None], tmp_path: Path
) -> None:
    rates = [f"{0.01 * (1 + k):g}" for k in range(settings)]

    def fit(rate: str, seed: int) -> None:
        own = ("--seed_everything", str(seed), "--run_directory", str(tmp_path / "alone" / rate / str(seed)))
        own = (*own, "--model.optimizer.lr", rate)
        assert train.main(["fit", "--config", DEMO, *SHORT, *own, "--test_after_fit", "true"]) == 0

    def sweep(varied: list[str], numbers: int, *more: str, jobs: int = 1) -> None:
        output = str(tmp_path / "-".join(["sweep", str(jobs), *more]))
        vary = ("--vary", f"model.optimizer.lr={','.join(varied)}", "--seeds", *map(str, range(numbers)))
        command = [*TRAIN, "compare", DEMO, *vary, "--jobs", str(jobs), "--output", output, *more, "--", *SHORT]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())

    fit("1", 0)  # the first run imports all modules
    runs, some = settings * seeds, rates[:: settings // 8]  # eight fits, whose mean is the mean of all fits
    fits, wall = spent(lambda: [fit(rate, number % seeds) for number, rate in enumerate(some)])
    fits, wall = fits * runs / len(some), wall * runs / len(some)
    forked, forked_wall = spent(lambda: sweep(rates, seeds))
    of = f"a sweep of {runs} fits of {fits / runs:.1f} s with its preflight and table, over their sum in one process"
    report(f"CPU time of {of}", forked / fits, "<= 1.2")  # not asserted: with few fits, an import costs more
    report(f"wall time of {of}", forked_wall / wall, "<= 1.2")
    if settings == 8:
        _, parallel_wall = spent(lambda: sweep(rates, seeds, jobs=2))
        report("wall time of this sweep with --jobs 2, over that sum", parallel_wall / wall, "<= 0.65")
        fresh, _ = spent(lambda: sweep(rates[:2], 1, "--no_fork"))
        report("CPU time of a sweep with --no_fork, where every run imports everything, over the sum of its fits",
               fresh / fits * runs / 2, "")  # fmt: skip
    assert forked_wall / wall <= 1.2
