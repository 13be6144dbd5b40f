"""Run stated claims, method against baseline, and give the verdicts.

    python train.py claim configs/elr/claim.yaml --record docs/claims.csv

A claim file holds a mapping, or a list of them, with the keys
    paper      the sentence of the paper that is put to the test
    method     config of the method, relative to the claim file
    baseline   config of what it is compared with
    metric     for example test/accuracy; of train/loss and the like the last value that a run logged
    direction  higher or lower: which is better
    margin     least difference of the means over seeds; a negative one says by how much the method may be worse
    seeds      at least two
    name       what tables call the claim (default: <folder>/<method config>)
    baseline_metric   what of the baseline is compared, where it is another metric, such as test/noisy_si_sdr of what
               was given; the baseline may then be the method's own config
    claimed    false for a sentence that the runs did not bear out: it is reported with its figures, and not claimed

A claim holds if the mean difference reaches the margin in the stated direction, and is significant over the seeds at
the 5 % level in a one-sided paired t test, as one above 0 or above a negative margin. Runs of a seed are a pair: they
share data, splits and noise, so what a hard split costs both of them is not held against the difference.

Written to the output directory: claims.csv, claims.md, and what `compare` writes for the same configs. Claim files of
several folders have a directory for each folder, and claims.csv and claims.md of all of them lie above. The exit status
is 1 if anything that is claimed does not hold.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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
from experiments.launching.run_queue import TRAIN, lock, print_failures, run_all
from experiments.results import table, terminal


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", metavar="CLAIM", nargs="+", type=Path, help="claim files")
    parser.add_argument("--output", type=Path, help="default: runs/claims/<folder of the claim file>")
    add_arguments(parser)
    parser.add_argument("--record", type=Path, help="a claims.csv that keeps the latest figures of every claim")


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Run what is not finished, and judge.

    Args:
        options: the arguments.
        run_command: the command that `fit ...` is appended to.

    Returns:
        Exit status: 0 if all that is claimed holds; 1 if something does not, or did not run; 130 after Ctrl-C.
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
        with lock([each.output for each in places]) as locks:
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
        if len(places) > 1:
            write(every, options.output or ABOVE)
        if options.record:
            known = {row["claim"]: row for row in [*read_claims(options.record), *every]}
            write_claims(options.record, list(known.values()))
    except KeyboardInterrupt:
        done = sum(run.finished for run in runs)
        print(f"interrupted: {done} of {len(runs)} runs are finished; the same command continues", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_failures(failures, console)
    console.print(table("claims", *cells(every)))
    return 0 if all(row["verdict"] in (HOLDS, UNCLAIMED) for row in every) else 1
