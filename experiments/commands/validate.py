"""Evaluate a trained model on the validation set."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from experiments.command_line import run

    return run(["validate", *argv])
