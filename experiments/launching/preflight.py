"""Instantiate all experiments of a comparison, to find their errors before the first run starts.

The experiments are instantiated by `dry_run.py` in a separate process.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.launching.local import Local
from experiments.launching.run_queue import Launcher
from experiments.run_request import PROJECT, Run

PREFLIGHT = (sys.executable, "-P", str(Path(__file__).with_name("dry_run.py")))
"""Without `-P`, Python would search the folder of the script, or the working directory, before its own modules."""
OF_A_GROUP = re.compile("(RANK|LOCAL_RANK|NODE_RANK|GROUP_RANK|WORLD_SIZE|MASTER_.*|SLURM_.*|TORCHELASTIC_.*)$")
"""Pattern of the environment variables that make a process a rank of a process group."""


def preflight(runs: Sequence[Run], command: Sequence[str] = PREFLIGHT, engine: Launcher | None = None) -> None:
    """In a separate process, instantiate each experiment that has unfinished runs.

    Args:
        runs: all runs, including finished runs. An experiment is instantiated only once for all its seeds.
        command: command that instantiates the experiments.
        engine: launcher of the runs. If it forks runs, it also forks the separate process, which shares its imports.
    """
    unfinished = [run for run in runs if not run.finished]
    waiting = list(dict.fromkeys(run.experiment for run in unfinished))
    if not waiting:
        return
    arguments = [["--config", str(each.config), *each.overrides] for each in waiting]
    errors, said = _answer(command, arguments, engine, len(unfinished))
    if isinstance(engine, Local) and (errors is None or any(errors)):
        engine.close()
    if errors is None:
        raise ValueError(f"the experiments could not be checked: {' '.join(said.split())[-500:]}")
    wrong = {each.name: error for each, error in zip(waiting, errors, strict=True) if error}
    if wrong:
        name, error = next(iter(wrong.items()))
        others = [other for other in wrong if other != name]
        more = f" (nor can {', '.join(others[:5])}{' and others' if len(others) > 5 else ''})" if others else ""
        raise ValueError(f"{name} cannot be run: {error}{more}")


def metrics_of_short_run(
    arguments: Sequence[str], command: Sequence[str] = PREFLIGHT, engine: Launcher | None = None
) -> list[str] | None:
    """Train and test on one batch each in a separate process. Return the metric names, or None if this fails."""
    return _answer((*command, "--short-run"), [list(arguments)], engine, 1)[0]


def _answer(
    command: Sequence[str], arguments: Sequence[Sequence[str]], engine: Launcher | None, runs: int
) -> tuple[Any, str]:
    """Run a command with lists of arguments as standard input.

    Return the JSON value in the last line of the output, and the messages of the command. The JSON value is None if the
    command failed.
    """
    given = json.dumps(arguments)
    if isinstance(engine, Local) and tuple(command[: len(PREFLIGHT)]) == PREFLIGHT:
        said = engine.ask(Path(__file__).with_name("dry_run.py"), command[len(PREFLIGHT) :], given, runs)
        if said is not None:
            return _last_line(said), said
    own = {name: value for name, value in os.environ.items() if not OF_A_GROUP.match(name)}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=own)
    return None if done.returncode else _last_line(done.stdout), done.stderr


def _last_line(said: str) -> Any:
    """Parse the last line that is a JSON list, or return None if there is no such line."""
    for line in reversed(said.splitlines()):
        with contextlib.suppress(ValueError):
            if isinstance(found := json.loads(line), list):
                return found
    return None
