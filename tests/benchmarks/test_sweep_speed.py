"""A sweep of short runs against the same runs one after another in a process that has imported everything."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from experiments.launching.run_queue import TRAIN
from tests.command import ROOT, environment

pytestmark = pytest.mark.benchmark
SEEDS = 16
DEMO = str(ROOT / "configs/elr/demo.yaml")
SHORT = ("--trainer.max_epochs", "8", "--trainer.enable_progress_bar", "false")


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of this process and those that it waits for, which other work on the machine does not change."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before


def test_a_sweep_of_one_second_fits(report: Callable[[str, float, str], None], tmp_path: Path) -> None:
    def fit(seed: int) -> None:
        own = ("--seed_everything", str(seed), "--run_directory", str(tmp_path / "alone" / str(seed)))
        assert train.main(["fit", "--config", DEMO, *SHORT, *own, "--test_after_fit", "true"]) == 0

    def sweep(seeds: int, *more: str) -> None:
        output = str(tmp_path / "-".join(["sweep", *more]))
        command = [*TRAIN, "compare", DEMO, "--seeds", *map(str, range(seeds)), "--output", output, *more, "--", *SHORT]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())

    fit(SEEDS)  # which imports
    fits = spent(lambda: [fit(seed) for seed in range(SEEDS)])
    forked = spent(lambda: sweep(SEEDS))
    few = 2
    fresh = spent(lambda: sweep(few, "--fresh"))
    of = f"{SEEDS} fits of {fits / SEEDS:.1f} s"
    report(f"CPU time of a sweep of {of} with its preflight and table, over their sum in one process",
           forked / fits, "<= 2")  # fmt: skip
    report("CPU time of a sweep with --fresh, where every run imports everything, over the sum of its fits",
           fresh / fits * SEEDS / few, "")  # fmt: skip
    assert forked / fits <= 2
