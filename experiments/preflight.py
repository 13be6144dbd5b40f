"""Builds experiments without running them, so that what is wrong with any of them is found before the first begins.

    python -m experiments.preflight < arguments.json

Standard input holds a list of lists, each the arguments that follow `fit`. Networks are built on the meta device, where
they have no values. Prints a list with an error or null for each.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from experiments.run_request import PROJECT, Run

PREFLIGHT = (sys.executable, "-m", "experiments.preflight")


def errors_of(arguments: Sequence[Sequence[str]]) -> list[str | None]:
    """Find the error in each list of arguments. One parser reads all: to build one takes longer than to use it."""
    import torch

    from experiments.class_counts import count_classes
    from experiments.command_line import ParsedOnly
    from experiments.readable_errors import readable

    parser: Any = None
    found: list[str | None] = []
    for each in arguments:
        try:
            if parser is None:
                parser = ParsedOnly(["fit", *each]).parser
            parsed = parser.parse_args(["fit", *each])
            parsed.fit.pop("trainer")  # it would look for devices
            count_classes(parsed.fit)
            with torch.device("meta"):
                parser.instantiate(parsed)
            found.append(None)
        except Exception as error:
            found.append(readable(error))
    return found


def preflight(runs: Sequence[Run], command: Sequence[str] = PREFLIGHT) -> None:
    """Builds each experiment whose runs are not finished, in a process of its own, which takes the time of one start.

    Raises:
        ValueError: names the experiments that can not be built, and what is wrong with the first.
    """
    waiting = list(dict.fromkeys(run.experiment for run in runs if not run.finished))
    if not waiting:
        return
    arguments = [["--config", str(each.config), *each.overrides] for each in waiting]
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, input=json.dumps(arguments), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise ValueError(f"the experiments could not be checked: {' '.join(done.stderr.split())[-500:]}")
    wrong = {each.name: error for each, error in zip(waiting, json.loads(lines[-1]), strict=True) if error}
    if wrong:
        name, error = next(iter(wrong.items()))
        others = [other for other in wrong if other != name]
        more = f" (nor can {', '.join(others[:5])}{' and others' if len(others) > 5 else ''})" if others else ""
        raise ValueError(f"{name} cannot be run: {error}{more}")


if __name__ == "__main__":
    print(json.dumps(errors_of(json.load(sys.stdin))))
