"""Train a method from a configuration, or resume a run with --resume RUN_DIRECTORY."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from experiments.command_line import run

    return run(["fit", *argv])
