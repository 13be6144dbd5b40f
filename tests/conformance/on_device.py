"""Runs of `train.py` on the simulated device, in a process of their own.

    python -m tests.conformance.on_device < COMMANDS

where COMMANDS is JSON: a list of command lines. Ends with the number of those that failed.
"""

import json
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.command import ROOT

Command = Sequence[str | Path]


def on_device(*commands: Command) -> None:
    """Run command lines of `train.py` one after the other on the simulated device, and fail where one fails."""
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    call = [sys.executable, "-m", __name__]
    run = subprocess.run(call, cwd=ROOT, input=asked, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout


def main() -> int:
    import train
    from tests.conformance.simulated_device import register

    register()
    for command in json.load(sys.stdin):
        print("train.py", *command, flush=True)
        try:
            if train.main(command) != 0:
                return 1
        except Exception:
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
