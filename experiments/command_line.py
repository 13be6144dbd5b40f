"""The commands `fit`, `validate`, `test` and `predict`: parse, build and execute a run, with errors of one sentence."""

import contextlib
import os
import shutil
import signal
import sys
import traceback
from argparse import ArgumentError

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments.arguments import COMPLETING
from experiments.calls.build import BuiltRun, build
from experiments.calls.execute import execute
from experiments.calls.parse import Grammar, Parsed, parse
from experiments.lightning_internals import subcommand_parser
from experiments.options.trainer_options import of_an_option
from experiments.parsing.readable_errors import lost_process, readable

STARTED = {".lock", "config.yaml", "metrics.csv", "labels.csv", "hparams.yaml"}
"""Files that a run writes before its first result."""


def _remove_failed_start(parsed: Parsed | None, built: BuiltRun | None) -> None:
    """Remove the run directory that this call created, if the call failed before its first batch and result."""
    if parsed is None or not parsed.folder.begun:
        return
    if built is not None:
        trainer = built.trainer
        loops = trainer.fit_loop.epoch_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop
        if any(loop.batch_progress.total.ready > 0 for loop in loops):
            return
    files = [path.name for path in parsed.folder.path.rglob("*") if path.is_file()]
    if all(name in STARTED or name.startswith("events.out.tfevents") for name in files):
        parsed.folder.held.close()
        shutil.rmtree(parsed.folder.path, ignore_errors=True)


def _ended_by_signal(parsed: Parsed | None, built: BuiltRun | None) -> int:
    """Print how to resume the run, and return the exit status."""
    place = "RUN_DIRECTORY" if parsed is None else parsed.folder.path
    print(f"error: the run was ended by SIGTERM; resume it with --resume {place}", file=sys.stderr)
    if built is not None:
        built.stop_signals.ask_for_another_turn()
    return 128 + signal.SIGTERM


def run(args: list[str]) -> int:
    """Run a subcommand, and report user errors in one sentence; the traceback is saved next to the results.

    Args:
        args: subcommand and its arguments.

    Returns:
        The exit status: 0 after success, 1 after an error, 2 after an invalid argument, and 143 if SIGTERM ended the
        run. Status 143 tells the parent process that the run is incomplete.
    """
    if COMPLETING:  # prints completions before parsing, and ends the process
        subcommand_parser(Grammar(args[0]), args[0]).parse_args([])
    parsed: Parsed | None = None
    built: BuiltRun | None = None
    try:
        parsed = parse(args)
        built = build(parsed)
        execute(built)
    except ArgumentError as error:
        print(f"error: {readable(error)}", file=sys.stderr)
        return 2
    except SIGTERMException:
        return _ended_by_signal(parsed, built)
    except (ValueError, TypeError, OSError, ImportError, MisconfigurationException, RuntimeError) as error:
        if built is not None and built.stop_signals.asked:
            return _ended_by_signal(parsed, built)  # the signal has also ended a worker, whose end is the error
        lost = lost_process(error) or of_an_option(error, None if built is None else built.trainer.precision)
        _remove_failed_start(parsed, built)
        if isinstance(error, RuntimeError) and lost is None:
            raise
        message = lost or readable(error)
        if parsed is not None and os.path.isdir(parsed.folder.path):
            kept = parsed.folder.path / "traceback.txt"
            with contextlib.suppress(OSError):  # the disk may be full
                kept.write_text(traceback.format_exc())
                message += f" (traceback: {kept})"
        elif os.environ.get("NOISEWORKS_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1
    finally:
        if parsed is not None:
            parsed.folder.held.close()
        # Otherwise, threads of the process group can outlive their resources at interpreter exit, and abort the
        # process.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
