"""Write predictions for the test set."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from experiments.command_line import run

    return run(["predict", *argv])
