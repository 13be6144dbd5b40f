"""Instantiate experiments on the meta device, for `preflight`, or train and test one experiment on one batch each.

    PYTHONPATH=PROJECT python -P dry_run.py [--short-run] < arguments.json

Standard input is a JSON list of argument lists for `fit`. The last line of the output is a JSON list that contains, for
each argument list, an error or null. With `--short-run`, the last line is instead a JSON list of the metric names of
the run with the first argument list.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from experiments.calls.build import build
from experiments.calls.execute import execute
from experiments.calls.parse import parse
from experiments.launching.preflight import OF_A_GROUP
from experiments.parsing.data_before_model import count_classes
from experiments.parsing.readable_errors import readable


def errors_of(arguments: Sequence[Sequence[str]]) -> list[str | None]:
    """For each list of arguments, return an error message, or None if there is no error.

    All lists share one parser, because building a parser is slow.
    """
    parser: Any = None
    found: list[str | None] = []
    for each in arguments:
        try:
            if parser is None:
                parser = parse(["fit", *each]).grammar.parser
            parsed = parser.parse_args(["fit", *each])
            parsed.fit.pop("trainer")  # the Trainer would search for devices
            count_classes(parsed.fit)
            with torch.device("meta"):
                parser.instantiate(parsed)
            found.append(None)
        except Exception as error:
            found.append(readable(error))
    return found


def short_run(arguments: Sequence[str]) -> list[str]:
    """Train on one batch, test on one batch, and return the names of the metrics."""
    with tempfile.TemporaryDirectory() as directory:
        more = ["--trainer.fast_dev_run", "1", "--test_after_fit", "true", "--run_directory", directory]
        alone = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
        return sorted(execute(build(parse(["fit", *arguments, *more, *alone]))))


if __name__ == "__main__":
    for name in filter(OF_A_GROUP.match, list(os.environ)):
        del os.environ[name]
    given = json.load(sys.stdin)
    print(json.dumps(short_run(given[0]) if "--short-run" in sys.argv else errors_of(given)))
