"""The commands of `train.py`: each file of this folder is one, and is imported when it is asked for.

A command has
    a docstring, whose first line stands in the list of commands, and which heads its --help
    arguments(parser), which adds its arguments
    run(options), which returns the exit status; a ValueError or OSError that it raises is bad input, exit status 2
What takes time to import, and everything outside `experiments`, is imported inside `run`, so that --help is quick.
The arguments of `fit`, `validate`, `test` and `predict` are those of classes, which LightningCLI parses: they have no
`arguments`, and `run` takes the list of words.
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
    """Read the first line of a command's docstring."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def parse(name: str, argv: Sequence[str]) -> Namespace:
    """Parse the arguments of a command.

    Raises:
        ValueError: names the argument that is wrong.
    """
    command = _imported(name)
    parser = ArgumentParser(f"{PROGRAM} {name}", command.__doc__)
    command.arguments(parser)
    return parser.parse_args(argv)


def run(name: str, argv: Sequence[str], *more: Any) -> int:
    """Run a command.

    Args:
        name: one of `names`.
        argv: what follows it on the command line.
        more: further arguments of its `run`.

    Returns:
        Exit status: the command's, or 2 for bad input, which one sentence on standard error says.
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
    """Answer the shell, which gives the line so far in variables, and end the process.

    jsonargparse completes the arguments of a parser, and fails for one that has subcommands ('Namespace' object does
    not support item assignment). So the command is taken off, and its own parser completes the rest.
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
        run(words[0], [])  # whose parser answers
