"""Builds experiments without running them, so that what is wrong with any of them is found before the first begins.

    python -m experiments.preflight < arguments.json

Standard input holds a list of lists, each the arguments that follow `fit`. Networks are built on the meta device, where
they have no values. Prints a list with an error or null for each. With `--short-run` it trains and tests the first with
a batch of each kind, and prints the names of the metrics.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from experiments.run_request import PROJECT, Run

PREFLIGHT = (sys.executable, "-m", "experiments.preflight")
OF_A_GROUP = re.compile("(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|WORLD_SIZE|MASTER_.*|SLURM_.*|TORCHELASTIC_.*)$")
"""Variables that make a process one of several."""


def errors_of(arguments: Sequence[Sequence[str]]) -> list[str | None]:
    """Find the error in each list of arguments. One parser reads all: to build one takes longer than to use it."""
    import torch

    from experiments.command_line import ParsedOnly
    from experiments.parsing.data_before_model import count_classes
    from experiments.parsing.readable_errors import readable

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
    errors, said = _answer(command, arguments)
    if errors is None:
        raise ValueError(f"the experiments could not be checked: {' '.join(said.split())[-500:]}")
    wrong = {each.name: error for each, error in zip(waiting, errors, strict=True) if error}
    if wrong:
        name, error = next(iter(wrong.items()))
        others = [other for other in wrong if other != name]
        more = f" (nor can {', '.join(others[:5])}{' and others' if len(others) > 5 else ''})" if others else ""
        raise ValueError(f"{name} cannot be run: {error}{more}")


def metrics_of_short_run(arguments: Sequence[str], command: Sequence[str] = PREFLIGHT) -> list[str] | None:
    """Train and test with a batch of each kind in a process of its own, and list the metrics; None if that fails."""
    return _answer((*command, "--short-run"), [list(arguments)])[0]


def _answer(command: Sequence[str], arguments: Sequence[Sequence[str]]) -> tuple[Any, str]:
    """Run a command on arguments; give what its last line says in JSON, None if it failed, and its messages."""
    own = {name: value for name, value in os.environ.items() if not OF_A_GROUP.match(name)}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, input=json.dumps(arguments), capture_output=True, text=True, env=own)
    lines = done.stdout.splitlines()
    return (None if done.returncode or not lines else json.loads(lines[-1])), done.stderr


def short_run(arguments: Sequence[str]) -> list[str]:
    """Train and test with a batch of each kind, and list the metrics."""
    from experiments.command_line import CommandLine

    with tempfile.TemporaryDirectory() as directory:
        more = ["--trainer.fast_dev_run", "1", "--test_after_fit", "true", "--run_directory", directory]
        alone = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
        return sorted(CommandLine(["fit", *arguments, *more, *alone]).measured)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(short_run(given[0]) if "--short-run" in sys.argv else errors_of(given)))
