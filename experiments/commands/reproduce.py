"""Run experiments at the size of the paper, and compare their results with the published numbers.

    python train.py reproduce configs/colide/reproduced.yaml --record docs/reproduced.csv

A file contains a list of experiments with the keys
    name       name in tables
    paper      table, figure or sentence of the paper
    config     configuration, relative to the file
    command    fit (default), or test for a method without training
    overrides  list of arguments that follow the configuration (optional)
    vary       mapping of one key to at least three values (optional): the number to compare is the exponent b of the
               power law y = c x^b that is fitted to the metric y over the values x of this key
    seeds      list of at least one seed
    tried      remark, for example on attempts to reach the number (optional)
    results    list of numbers to compare, with the keys
        metric       for example test/accuracy
        published    the paper's number
        uncertainty  standard deviation of this number, or reading error if it is read from a figure (optional)
        direction    which values are better: higher or lower; equal if neither is better
        margin       how much worse our mean may be than the paper's number; for equal, how much it may differ

State direction and margin before you run the experiments. Finished runs are kept, and repeating an interrupted command
continues it. The CPU hours of an experiment are those of its runs on this machine. The exit status is 1 if a number is
not reached.
"""

import resource
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from datamodules.files.owner import owned_path
from experiments.launching.launchers import add_arguments, launcher, resources
from experiments.launching.preflight import preflight
from experiments.launching.run_queue import GRACE_SECONDS, TRAIN, lock, print_failures, run_all
from experiments.reproduction import ABOVE, HEADER, REPRODUCED, Row, cells, plan, rows_of, save, write
from experiments.results import table, terminal


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="files with published numbers")
    parser.add_argument("--output", type=Path, help="default: runs/reproduced/<folder of the file>")
    add_arguments(parser)
    parser.add_argument("--record", type=Path, help="reproduced.csv to update with the results")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Run all unfinished runs, and compare the results with the published numbers.

    Args:
        options: parsed arguments.
        run_command: command that runs `train.py`, to which `fit ...` or `test ...` is appended.

    Returns:
        The exit status. It is 0 if all numbers are reproduced, 1 if one is not reached or a run failed, and 130 after
        Ctrl-C.
    """
    console = terminal()
    planned = plan(options.files, options.output)
    runs = [run for each in planned for run in each.runs]
    experiments = list(dict.fromkeys(run.experiment for run in runs))
    engine = launcher(resources(options), experiments, (options.output or ABOVE) / "slurm")
    if run_command is TRAIN:
        preflight(runs, engine=engine)
    rows: list[Row] = []
    try:
        for each in planned:
            begun = _children()
            with lock([each.output]) as locks:
                try:
                    failures = run_all(
                        each.runs, launcher=engine, console=console, locks=locks, run_command=run_command
                    )
                finally:
                    if (used := _children() - begun) > 0 and each.output.is_dir():
                        each.add_cpu_seconds(used)
            print_failures(failures, console)
            rows += rows_of(each)
            with owned_path(options.output or ABOVE, GRACE_SECONDS):
                save(rows, options.output or ABOVE)
            if options.record:
                with owned_path(options.record, GRACE_SECONDS, "choose another --record"):
                    write(options.record, rows)
    except KeyboardInterrupt:
        done = sum(run.finished for run in runs)
        print(f"interrupted: {done} of {len(runs)} runs are finished; repeat the command to continue", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(table("reproduced", HEADER, [cells(row) for row in rows]))
    return 0 if all(row["verdict"] == REPRODUCED for row in rows) else 1
