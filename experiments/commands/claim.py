"""Test statements of papers, against a baseline or a published number: run their experiments, and report the verdicts.

    python train.py claim configs/elr/claim.yaml --record docs/claims.csv
    python train.py claim "ELR stays accurate"           one claim, by its name
    python train.py claim --show configs/elr/claim.yaml  print the command of each arm, without running it

A claim file contains a mapping, or a list of mappings, with the keys
    paper      sentence, table or figure of the paper to test
    method     config of the method, relative to the claim file, or a config with overrides:
               {config: demo.yaml, model.rule: lightning_modules.optimization.monna.Krum}; with `command: test`, the
               method is tested without training; `name` replaces the name that the overrides give to a run
    baseline   config of the baseline, in the same form
    metric     for example test/accuracy; of training metrics such as train/loss, the last value of a run is used
    direction  which values are better: higher or lower
    margin     minimum difference of the means over seeds; if negative, how much worse the method may be
    seeds      list of at least two seeds
    name       name in tables (default: <folder>/<method config>)
    baseline_metric   metric of the baseline, if it differs from `metric`, such as test/noisy_si_sdr of the inputs;
               the baseline may then be the method's own config
    claimed    false for a statement that the runs did not confirm: it is reported, and does not change the exit status
    predicted  false if it was not predicted, before the runs, that the statement holds
    planned_seeds   seeds that were stated before the runs, if the runs have others
    figure     a picture of the runs in docs/images, see experiments/pictures.py
An item `- defaults: {direction: higher, seeds: [0, 1, 2]}` of the list gives these keys to the claims below it, up to
the next such item. A claim's own keys take precedence.

A claim holds if two conditions are met. First, the mean difference must reach the margin in the stated direction.
Second, it must be significantly above 0 (or above the margin, if the margin is negative) in a one-sided paired t-test
over seeds at the 5 % level. Two runs with the same seed form a pair: they share data, splits and noise, so the effect
of a difficult split on both runs cancels.

In place of a baseline, a statement may have the keys
    published    number in the paper; it is reproduced if the mean is worse by at most the margin
    uncertainty  standard deviation of this number, or reading error if it is read from a figure (optional)
    printed      true if a paper prints the number for an experiment of this size (default: false, a theorem's number)
    vary         mapping of one key to at least three values (optional): the number to compare is the exponent b of the
                 power law y = c x^b that is fitted to the metric y over the values x of this key
    tried        remark, for example on attempts to reach the number (optional)
One seed is then enough, and the direction may also be equal: the mean may differ from the number by the margin.

The output directory contains claims.csv, claims.md, and the output of `compare` for the arms with a baseline. If the
claim files are in several folders, there is one directory per folder, and claims.csv and claims.md contain the claims
of all folders. The CPU hours of a published number are those of its runs on this machine. The exit status is 1 if a
claim does not hold, if a published number is not reached, or if a run failed.
"""

import resource
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.files.whole_files import owned_path
from experiments.arguments import COMMAND, add_figure_format
from experiments.claims.statements import ABOVE, check_metrics, commands_of, plan_claims, select_claims, try_metrics
from experiments.claims.verdicts import Row, decide, verdict_cells, write_claim_tables, write_claims
from experiments.compare import show, write_comparison
from experiments.launching.launchers import add_arguments, launcher
from experiments.launching.preflight import metrics_of_short_run, preflight
from experiments.launching.run_queue import GRACE_SECONDS, TRAIN, Failure, lock, print_failures, run_all
from experiments.paper.formats import FORMATS, TextTable, print_table
from experiments.results import latest, read_csv, terminal
from experiments.run_request import Run


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("claims", metavar="CLAIM", nargs="+", help="claim files, or names of claims")
    parser.add_argument("--show", action="store_true", help="print the command of each arm, without running it")
    parser.add_argument("--output", type=Path, help="default: runs/claims/<folder of the claim file>")
    add_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, help="print the verdicts in this form, and the rest to stderr")
    add_figure_format(parser)
    parser.add_argument("--record", type=Path, help="claims.csv to update with the latest figures of every claim")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Run all unfinished runs, and decide the claims.

    Args:
        options: parsed arguments.
        run_command: command that runs `train.py`, to which `fit ...` or `test ...` is appended.

    Returns:
        The exit status. It is 0 if all claims hold, and 1 if a claim does not hold or did not run.
    """
    if options.show:
        for claims in select_claims(options.claims).values():
            print(*commands_of(claims, COMMAND), sep="\n")
        return 0
    console = terminal(stderr=options.format is not None)
    places = plan_claims(options.claims, options.output)
    runs = [run for each in places for run in each.runs]
    experiments = list(dict.fromkeys(run.experiment for run in runs))
    engine = launcher(options, experiments, (options.output or ABOVE) / "slurm")
    if run_command is TRAIN:
        preflight(runs, engine=engine)
        try_metrics(places, partial(metrics_of_short_run, engine=engine))
    failures: list[Failure] = []
    verdicts, every = [], list[Row]()
    above = [options.output or ABOVE] if len(places) > 1 else []
    with lock([*above, *(each.output for each in places)]) as locks:
        batches: list[tuple[list[Run], Path | None]] = [([run for each in places for run in each.compared], None)]
        batches += [
            (each.runs_of(claim), each.cpu_seconds(claim))
            for each in places
            for claim in each.claims
            if claim.published is not None
        ]
        for own, cpu_seconds in batches:
            begun = _children()
            try:
                failures += run_all(own, launcher=engine, console=console, locks=locks, run_command=run_command,
                                    look_at=lambda run: check_metrics(run, places))  # fmt: skip
            finally:
                if cpu_seconds and cpu_seconds.parent.is_dir() and (used := _children() - begun) > 0:
                    with cpu_seconds.open("a", encoding="utf-8") as file:
                        file.write(f"{used:.1f}\n")
        for each in places:
            if each.compared:
                found = write_comparison(each.compared, each.output, paired=False, figure_format=options.figure_format)
                show(found, each.output, console)
            decided, rows = decide(each, failures)
            write_claim_tables(rows, each.output)
            verdicts += decided
            every += rows
        for folder in above:
            write_claim_tables(every, folder)
    if options.record:
        with owned_path(options.record, GRACE_SECONDS, "choose another --record"):
            write_claims(options.record, latest([*read_csv(options.record), *every], ["claim"]))
    print_failures(failures, console)
    print_table(TextTable("claims", *verdict_cells(every)), console, options.format)
    return 1 if any(each.fails for each in verdicts) else 0
