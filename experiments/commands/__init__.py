"""The commands of `train.py`, one per file in this folder. A file is imported only when its command is called.

A command has
    a docstring, whose first line is shown in the list of commands, and which is shown completely by --help
    arguments(parser), which adds its arguments
    run(options), which returns the exit status; a ValueError or OSError means invalid input (exit status 2)
Slow modules, and all modules outside `experiments`, are imported inside `run`, which keeps --help fast. The commands of
the Trainer have no file: LightningCLI parses their arguments.
"""

import os
import pkgutil
import sys
from argparse import ArgumentParser as AnyParser
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from experiments.arguments import PROGRAM, ArgumentParser

OF_TRAINER = {
    "fit": "Train a method from a configuration, or resume a run with --resume RUN_DIRECTORY.",
    "predict": "Write predictions for the test set.",
    "test": "Evaluate a trained model on the test set.",
    "validate": "Evaluate a trained model on the validation set.",
}


def names() -> list[str]:
    """List the names of the commands, without importing the commands."""
    return sorted([*OF_TRAINER, *(module.name for module in pkgutil.iter_modules(__path__))])


def summary(name: str) -> str:
    """Return one line about a command."""
    return OF_TRAINER.get(name) or first_line(f"{__name__}.{name}")


def first_line(module: str) -> str:
    """Return the first line of a module's docstring, without importing the module."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def parse(name: str, argv: Sequence[str]) -> Namespace:
    """Parse the arguments of a command."""
    command = _import(name)
    parser = ArgumentParser(f"{PROGRAM} {name}", command.__doc__)
    command.arguments(parser)
    return parser.parse_args(argv)


def run(name: str, argv: Sequence[str], *more: Any) -> int:
    """Run a command, and return its exit status: 2 for an error, which is reported in one sentence, and 130 for Ctrl-C.

    `more` are additional arguments for the `run` function of the command.
    """
    if name in OF_TRAINER:
        from experiments.command_line import run as run_trainer

        return run_trainer([name, *argv])
    command = _import(name)
    try:
        return command.run(parse(name, argv), *more)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt}repeat the command to continue", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _import(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def complete() -> None:
    """Print completions for the shell, and end the process.

    The shell passes the incomplete command line in environment variables.

    jsonargparse cannot complete a parser with subcommands ('Namespace' object does not support item assignment).
    Therefore the command is removed from the command line, and the rest is completed by the command's own parser.
    """
    import argcomplete

    first = int(os.environ["_ARGCOMPLETE"])
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = argcomplete.split_line(line)[3][first:]
    if not words:
        parser = AnyParser(add_help=False)
        parser.add_argument("subcommand", choices=names())
        argcomplete.autocomplete(parser)
    os.environ["_ARGCOMPLETE"] = str(first + 1)
    if words[0] in names():
        run(words[0], [])  # its parser prints the completions
