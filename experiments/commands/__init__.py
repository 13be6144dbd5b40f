"""The commands of `train.py`, one per file of this folder. The file of a command is imported only when it is called.

A command has
    a docstring: its first line is shown in the list of commands, the whole of it in its --help
    arguments(parser), which adds its arguments
    run(options), which returns the exit status; a ValueError or OSError means bad input, exit status 2
`run` itself imports slow modules and everything outside `experiments`, which keeps --help fast. `fit`, `validate`,
`test` and `predict` have no `arguments`. Their `run` takes the list of arguments. LightningCLI parses this list.
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


def names() -> list[str]:
    """List the commands, without importing them."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def summary(name: str) -> str:
    """Read the first line of the docstring of a command."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def parse(name: str, argv: Sequence[str]) -> Namespace:
    """Parse the arguments of a command.

    Raises:
        ValueError: if an argument is invalid; the message names the argument.
    """
    command = _imported(name)
    parser = ArgumentParser(f"{PROGRAM} {name}", command.__doc__)
    command.arguments(parser)
    return parser.parse_args(argv)


def run(name: str, argv: Sequence[str], *more: Any) -> int:
    """Run a command.

    Args:
        name: name of the command, one of `names`.
        argv: command-line arguments of the command.
        more: further arguments for the `run` function of the command.

    Returns:
        Exit status of the command, or 2 for bad input. Bad input is reported in one sentence on standard error.
    """
    command = _imported(name)
    if not hasattr(command, "arguments"):
        return command.run(argv, *more)
    try:
        return command.run(parse(name, argv), *more)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _imported(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def complete() -> None:
    """Print completions of the command line, and end the process.

    The shell passes the command line in environment variables.

    jsonargparse cannot complete a parser with subcommands ('Namespace' object does not support item assignment). The
    command is therefore removed from the line. The parser of the command completes the rest.
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
