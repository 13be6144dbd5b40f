"""Test claims that compare a method with a baseline: run their experiments, and report the verdicts.

    python train.py claim configs/elr/claim.yaml --record docs/claims.csv

A claim file contains a mapping, or a list of mappings, with the keys
    paper      sentence of the paper to test
    method     config of the method, relative to the claim file
    baseline   config of the baseline
    metric     for example test/accuracy; of training metrics such as train/loss, the last value of a run is used
    direction  which values are better: higher or lower
    margin     minimum difference of the means over seeds; if negative, how much worse the method may be
    seeds      list of at least two seeds
    name       name in tables (default: <folder>/<method config>)
    baseline_metric   metric of the baseline, if it differs from `metric`, such as test/noisy_si_sdr of the inputs;
               the baseline may then be the method's own config
    claimed    false for a sentence that the runs did not confirm: the numbers are reported, but nothing is claimed

A claim holds if two conditions are met. First, the mean difference must reach the margin in the stated direction.
Second, it must be significantly above 0 (or above the margin, if the margin is negative) in a one-sided paired t-test
over seeds at the 5 % level. Two runs with the same seed form a pair: they share data, splits and noise, so the effect
of a difficult split on both runs cancels.

The output directory contains claims.csv, claims.md, and the output of `compare` for the same configs. If the claim
files are in several folders, there is one directory per folder, and claims.csv and claims.md contain the claims of all
folders. The exit status is 1 if a claim does not hold or if one of its runs failed.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.files.owner import owned_path
from experiments.claim import (
    ABOVE,
    HOLDS,
    UNCLAIMED,
    Row,
    cells,
    check_metrics,
    plan,
    read_claims,
    rows_of,
    try_metrics,
    verdict,
    write,
    write_claims,
)
from experiments.compare import collect, show
from experiments.launching.launchers import add_arguments, launcher, resources
from experiments.launching.preflight import metrics_of_short_run, preflight
from experiments.launching.run_queue import GRACE_SECONDS, TRAIN, lock, print_failures, run_all
from experiments.results import latest, table, terminal


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", metavar="CLAIM", nargs="+", type=Path, help="claim files")
    parser.add_argument("--output", type=Path, help="default: runs/claims/<folder of the claim file>")
    add_arguments(parser)
    parser.add_argument("--record", type=Path, help="claims.csv to update with the latest figures of every claim")


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Run all unfinished runs, and decide the claims.

    Args:
        options: parsed arguments.
        run_command: command that runs `train.py`, to which `fit ...` is appended.

    Returns:
        The exit status. It is 0 if all claims hold, 1 if a claim does not hold or did not run, and 130 after Ctrl-C.
    """
    console = terminal()
    places = plan(options.files, options.output)
    runs = [run for each in places for run in each.runs]
    experiments = list(dict.fromkeys(run.experiment for run in runs))
    engine = launcher(resources(options), experiments, (options.output or ABOVE) / "slurm")
    if run_command is TRAIN:
        preflight(runs, engine=engine)
        try_metrics(places, partial(metrics_of_short_run, engine=engine))
    try:
        above = [options.output or ABOVE] if len(places) > 1 else []
        with lock([*above, *(each.output for each in places)]) as locks:
            failures = run_all(runs, launcher=engine, console=console, locks=locks, run_command=run_command,
                               look_at=lambda run: check_metrics(run, places))  # fmt: skip
            every: list[Row] = []
            for each in places:
                show(each.runs, each.output, console)
                results = collect(each.runs, {metric for claim in each.claims for metric in claim.metrics})
                own = [failure for failure in failures if failure.run in each.runs]
                rows = rows_of([verdict(claim, each.names, results, own) for claim in each.claims], each.runs)
                write(rows, each.output)
                every += rows
            for folder in above:
                write(every, folder)
        if options.record:
            with owned_path(options.record, GRACE_SECONDS, "choose another --record"):
                write_claims(options.record, latest([*read_claims(options.record), *every], ["claim"]))
    except KeyboardInterrupt:
        done = sum(run.finished for run in runs)
        print(f"interrupted: {done} of {len(runs)} runs are finished; repeat the command to continue", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_failures(failures, console)
    console.print(table("claims", *cells(every)))
    return 0 if all(row["verdict"] in (HOLDS, UNCLAIMED) for row in every) else 1
