"""Argument parser and argument types of the subcommands. Each error message is a single sentence."""

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

PROGRAM = "noiseworks" if Path(sys.argv[0]).stem == "noiseworks" else "train.py"
"""Name of the program that the user called: the installed command, or the script in a checkout."""
COMMAND = PROGRAM if PROGRAM == "noiseworks" else f"python {PROGRAM}"
"""How the user calls the program, for commands that are printed."""


class ArgumentParser(argparse.ArgumentParser):
    """Argparse parser that prints no usage text before an error and does not accept abbreviations.

    Raises:
        ValueError: from `parse_args`, for invalid arguments.
    """

    takes_overrides = False
    """Whether the arguments after `--` are stored in `overrides`. They override settings of the configurations."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self.takes_overrides:
            return super().parse_args(args, namespace)
        own = list(args)
        at = own.index("--") if "--" in own else len(own)
        overrides = own[at + 1 :]
        found, unknown = self.parse_known_args(own[:at], namespace)
        if unknown:
            command = self.prog.rpartition(" ")[2]
            raise ValueError(f"{unknown[0]} is not an option of {command}; overrides of the configs go after `--`")
        if overrides and not overrides[0].startswith("-"):
            raise ValueError(f"`--` must be followed by overrides such as --trainer.max_epochs 5, got {overrides[0]}")
        found.overrides = overrides
        return found

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if COMPLETING and not hasattr(self, "completes"):
            import argcomplete

            self.completes = True
            argcomplete.autocomplete(self)  # this call ends the process
        return super().parse_known_args(*args, **kwargs)


COMPLETING = "_ARGCOMPLETE" in os.environ
"""Whether the shell called the program to complete arguments, through the package argcomplete."""


LARGEST_SEED = 2**32 - 1  # the limit of NumPy


def seed(text: str) -> int:
    """Parse a seed for all random number generators."""
    value = whole_number(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{value} is more than {LARGEST_SEED}")
    return value


def are_seeds(value: object) -> bool:
    """Return whether a value of a YAML file is a list of different seeds."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each <= LARGEST_SEED for each in value):
        return False
    return 0 < len(value) == len(set(value))


def finite_number(value: object) -> float | None:
    """Convert a YAML value (or a string such as `1e-3`) to a number. Return None if it is not a finite number."""
    with contextlib.suppress(TypeError, ValueError):
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        return number if math.isfinite(number) else None
    return None


def whole_number(text: str) -> int:
    """Parse a count that may be 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def positive_number(text: str) -> int:
    """Parse a count that must be at least 1."""
    value = whole_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is less than 1")
    return value


def named_value(text: str) -> tuple[str, str]:
    """Parse an argument of the form `NAME=VALUE`.

    Raises:
        argparse.ArgumentTypeError: if a part is missing.
    """
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=VALUE")
    return name, value


def add_figure_format(parser: argparse.ArgumentParser) -> None:
    """Add the format of figures to the arguments of a command, see `datamodules.files.whole_files`."""
    about = "png, or pdf or svg in the width of a column, 3.25 inches; default: png"
    parser.add_argument("--figure_format", choices=("png", "pdf", "svg"), default="png", help=about)
