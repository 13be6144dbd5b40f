"""Run the command line as a user does, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

from experiments.launching.preflight import OF_A_GROUP

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """Return an environment with one thread, plain progress bars, and no variables of a distributed run."""
    own = {name: value for name, value in os.environ.items() if not OF_A_GROUP.match(name)}
    return {**own, "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}


def start(*arguments: str | Path, launcher: tuple[str, ...] = (sys.executable,), **more: str) -> subprocess.Popen[str]:
    """Start `train.py` with the given arguments; `more` contains additional environment variables."""
    return subprocess.Popen(
        [*launcher, str(ROOT / "train.py"), *map(str, arguments)],
        cwd=ROOT,
        env={**environment(), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str | Path, status: int = 0, launcher: tuple[str, ...] = (sys.executable,), **more: str) -> str:
    """Run `train.py` to its end, check the exit status, and return the printed output."""
    process = start(*arguments, launcher=launcher, **more)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    return output
