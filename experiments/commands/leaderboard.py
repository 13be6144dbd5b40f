"""Compare all methods of a field, and simple baselines, on the same data under one protocol.

    python train.py leaderboard noisy_labels --record docs/leaderboards.csv
    python train.py leaderboard noisy_labels --show   print the command of each cell, without running it

FIELD is the name of a file in configs/leaderboards, or a path. The file has the keys
    title    heading of the table
    metrics  mapping of metrics to the better direction: {test/accuracy: higher}
    cpu, gpu the leaderboard on a CPU, and at the size of the published benchmark; each is a mapping with the keys
        protocol    how the methods are compared: data, network, budget, seeds, tuning
        seeds       seeds of the runs
        overrides   settings of all runs (optional)
        columns     mapping of the names of settings to their overrides
        rows        list of mappings with `name`, `config` (relative to the file) and overrides; optionally
                    `command: test` (the method is not trained), `baseline: true`, `columns` (overrides of this row in a
                    column, which may be another `config`), and `search` (mapping of keys to lists of values: each
                    combination is a trial). All searches have the same number of trials
        validation  how searches choose: `metric` (val/accuracy, or val/score:max), `seed` (outside `seeds`) and,
                    optionally, `column` (the only column in which trials are run), `overrides` of the trials, and
                    `columns` (overrides of the trials in a column). A test metric is accepted only if these overrides
                    replace the data

Trials run first. Then each method runs in each column with each seed, and with the best settings of its trials. If the
command is repeated, finished runs are kept and unfinished runs are resumed. A failed run does not stop the others: its
cell says so and cannot be the best of its column, and a failed trial is never chosen.
The output directory contains leaderboard.csv, leaderboard.png and the runs.
"""

import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from datamodules.files.whole_files import owned_path, write_text
from experiments.arguments import COMMAND, ArgumentParser
from experiments.compare import collect
from experiments.config_files import PROJECT
from experiments.launching.launchers import add_arguments, launcher
from experiments.launching.preflight import preflight
from experiments.launching.run_queue import GRACE_SECONDS, TRAIN, lock, print_failures, run_all
from experiments.leaderboards.fields import SIZES, Board, Plan, load_board
from experiments.leaderboards.tables import Row, board_rows, board_tables, draw_board, picture, rows_text, winners
from experiments.paper.formats import FORMATS, print_table
from experiments.results import choose_from, read_csv, terminal
from experiments.run_request import Run, check


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("field", metavar="FIELD", help="name of a file in configs/leaderboards, or a path")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="default: cpu")
    parser.add_argument("--show", action="store_true", help="print the command of each cell, without running it")
    parser.add_argument("--output", type=Path, help="default: runs/leaderboards/<field>/<size>")
    add_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, help="print the tables in this form, and the rest to stderr")
    parser.add_argument("--record", type=Path, help="leaderboards.csv to update; the picture goes to images/")


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Run all unfinished trials and runs, and show the tables.

    Args:
        options: parsed arguments.
        run_command: command that runs `train.py`, to which `fit ...` or `test ...` is appended.

    Returns:
        The exit status. It is 0 for success, and 1 if a run failed.
    """
    board = load_board(options.field, options.size)
    output = options.output or Path("runs/leaderboards", board.field, board.size)
    plan = Plan(board, output)
    if options.show:
        known, _ = recorded(PROJECT / "docs/leaderboards.csv", board)
        chosen = {f"{row['row']}, {row['column']}": shlex.split(row["settings"]) for row in known}
        print(*(f"# {title}\n{command}" for title, command in plan.commands(COMMAND, chosen)), sep="\n")
        return 0
    console = terminal(stderr=options.format is not None)
    trials = [run for entry in board.entries for run in plan.trials(entry)]
    unsearched = [plan.run(entry, board.seeds[0], ()) for entry in board.entries]
    for each in (*trials, *plan.runs()):
        check(each)
    engine = launcher(options, [run.experiment for run in unsearched], output / "slurm")
    if run_command is TRAIN:
        preflight([*trials, *unsearched], engine=engine)
    with lock([output]) as locks:
        failures = run_all(trials, launcher=engine, console=console, locks=locks, run_command=run_command)
        for each in (runs := plan.runs()):
            check(each)
        failures += run_all(runs, launcher=engine, console=console, locks=locks, run_command=run_command,
                            look_at=lambda run: check_metrics(board, run))  # fmt: skip
        rows = board_rows(plan, COMMAND)
        write_text(output / "leaderboard.csv", rows_text(rows))
        drawn = draw_board(board, runs, output / "leaderboard.png")
    if options.record:
        from experiments.pictures import shrink

        with owned_path(options.record, GRACE_SECONDS, "choose another --record"):
            write_text(options.record, rows_text([*recorded(options.record, board)[1], *rows]))
        if drawn:
            shrink(output / "leaderboard.png", options.record.parent / "images" / picture(board))
    print_failures(failures, console)
    for table in board_tables(rows):
        print_table(table, console, options.format)
    console.print(f"{winners(rows)}\n{output / 'leaderboard.csv'}", markup=False, soft_wrap=True)
    return 1 if failures else 0


def recorded(path: Path, board: Board) -> tuple[list[Row], list[Row]]:
    """Read the rows of leaderboards.csv: those of a leaderboard, and the others."""
    rows = [dict(row) for row in read_csv(path)]
    own = [row for row in rows if (row["field"], row["size"]) == (board.field, board.size)]
    return own, [row for row in rows if row not in own]


def check_metrics(board: Board, run: Run) -> None:
    """Raise an error if a finished run lacks a metric of the leaderboard, before other runs start."""
    known = {result.metric: result for result in collect([run], board.metrics)}
    if missing := next((each for each in board.metrics if known and each not in known), None):
        raise ValueError(f"{run.title} has no metric {missing}{choose_from(missing, known)}")
