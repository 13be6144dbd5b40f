"""Arguments of the subcommands: what is wrong with them is said in one sentence."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

PROGRAM = "noiseworks" if Path(sys.argv[0]).stem == "noiseworks" else "train.py"
"""The command as the user wrote it: that of the installed package, or the file of a checkout."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse without the usage text in front of an error, and without abbreviations.

    Raises:
        ValueError: from `parse_args`, for arguments that do not parse.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if COMPLETING and not hasattr(self, "completes"):
            import argcomplete

            self.completes = True
            argcomplete.autocomplete(self)  # which ends the process
        return super().parse_known_args(*args, **kwargs)


COMPLETING = "_ARGCOMPLETE" in os.environ
"""Whether the shell has called the program to complete its arguments, by the package argcomplete."""


def complete(subcommands: Sequence[str], of_runs: Sequence[str], main: Callable[[list[str]], int]) -> None:
    """Answer the shell, which gives the line so far in variables, and end the process.

    jsonargparse completes the arguments of a parser, and fails for one that has subcommands ('Namespace' object does
    not support item assignment). So the subcommand is taken off, and its own parser completes the rest.

    Args:
        subcommands: all of them.
        of_runs: those that take a run's arguments.
        main: runs one of the others, whose parser answers.
    """
    import argcomplete

    first = int(os.environ["_ARGCOMPLETE"])
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = argcomplete.split_line(line)[3][first:]
    if not words:
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("subcommand", choices=subcommands)
        argcomplete.autocomplete(parser)
    os.environ["_ARGCOMPLETE"] = str(first + 1)
    if words[0] in of_runs:
        from experiments.command_line import parser_of

        parser_of(words[0]).parse_args([])  # completes before it parses, and ends the process
    elif words[0] in subcommands:
        main([words[0]])


LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one


def seed(text: str) -> int:
    """A seed of all random number generators.

    Raises:
        argparse.ArgumentTypeError: if `text` is not a whole number of 0 to `LARGEST_SEED`.
    """
    value = whole_number(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{value} is more than {LARGEST_SEED}")
    return value


def whole_number(text: str) -> int:
    """A count.

    Raises:
        argparse.ArgumentTypeError: if `text` is not a whole number of at least 0.
    """
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def positive_number(text: str) -> int:
    """A number of processes.

    Raises:
        argparse.ArgumentTypeError: if `text` is not a whole number of at least 1.
    """
    value = whole_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is less than 1")
    return value
