"""Runs of `train.py` on the simulated device, with one or several ranks, forked from one process that has imported it.

    python -m tests.conformance.on_device

reads requests from `on_device`, each as one line of JSON, and answers each with one line. With arguments, it runs them
as a single command line. A command line may also be `-c PROGRAM`, as in Python.
"""

import atexit
import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.command import ROOT, environment
from tests.conformance import mutants

Command = Sequence[str | Path]
TEN_MINUTES = 600
LEFT_ALONE = 5.0
"""Seconds that the other ranks may wait for a failed rank."""


def on_device(*commands: Command, ranks: int = 1, fails: str | None = None, mutant: str | None = None) -> str:
    """Run command lines of `train.py` one after another on the simulated device, and return their output.

    Args:
        commands: command lines.
        ranks: world size of each run; with several ranks, collectives accept only what NCCL accepts (`collectives.py`).
        mutant: name of a fault that is inserted (`mutants.py`).
        fails: expected message of a failing run; None requires success.
    """
    asked = {"commands": [[str(argument) for argument in command] for command in commands], "ranks": ranks}
    server = started(mutant)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        answer = server.stdout.readline() if selector.select(TEN_MINUTES) else ""
    if not answer or mutant:
        ended(server)
        started.cache_clear()
    assert answer, f"no answer within {TEN_MINUTES} seconds, or the server died: {asked['commands']}"
    failed, printed = json.loads(answer)
    assert failed == (fails is not None), printed
    assert fails is None or fails in printed, printed
    return printed


@functools.cache
def started(mutant: str | None) -> subprocess.Popen[str]:
    """Start the process from which runs are forked; it serves all calls of the test process."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__],
        **{"cwd": ROOT, "env": environment() | ({"MUTANT": mutant} if mutant else {}), "text": True},
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True},
    )
    atexit.register(ended, server)
    return server


def ended(server: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def called(command: list[str]) -> int:
    """Run a command line in this process, which has the device; `compare` starts its runs through this file, too."""
    import train
    from callbacks.generation import folders
    from experiments import commands
    from tests.conformance import simulated_device

    if command[0] == "-c":
        exec(command[1], {})
        return 0
    if command[0] == "compare":
        return commands.run("compare", command[1:], (sys.executable, "-m", "tests.conformance.on_device"))
    folders.device_named = lambda name: simulated_device.DEVICE  # the command checks the devices of this machine
    return train.main(command)


def join(rank: int, ranks: int, port: int) -> None:
    """Make this process a rank of a group, as a launcher would."""
    from lightning.pytorch.utilities import rank_zero_only

    from tests.conformance import collectives

    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "device"}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # otherwise set only at import time
    collectives.like_nccl()


def forked(command: list[str], rank: int, ranks: int, port: int, log: int) -> int:
    """Run a command line in a fork of this process, write its output to a file, and return the fork's process id."""
    from tests.conformance import host_syncs

    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if ranks > 1:
            join(rank, ranks, port)
        status = called(command)
        print(host_syncs.report())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(command: list[str], ranks: int, log: int) -> list[int]:
    """Run a command line on all ranks, and return the exit statuses; ranks that wait for a failed rank are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {forked(command, rank, ranks, port, log): rank for rank in range(ranks)}
    statuses, deadline = [0] * ranks, float("inf")
    while running:
        child, status = os.waitpid(-1, 0 if deadline == float("inf") else os.WNOHANG)
        if child:
            status = statuses[running.pop(child)] = os.waitstatus_to_exitcode(status)
            deadline = time.monotonic() + LEFT_ALONE if status else deadline
        elif time.monotonic() < deadline:
            time.sleep(0.05)
        else:
            for left in running:
                os.kill(left, signal.SIGKILL)
            deadline = float("inf")
    return statuses


def serve() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked, failed = json.loads(line), False
        with tempfile.TemporaryFile("a+") as log:
            for command in asked["commands"]:
                print("train.py", *command, file=log, flush=True)
                if any(statuses := run(command, asked["ranks"], log.fileno())):
                    failed = True
                    print(f"exit status {statuses}: train.py", *command, file=log, flush=True)
            log.seek(0)
            print(json.dumps([failed, log.read()]), file=answers, flush=True)


def main(arguments: list[str]) -> int:
    if name := os.environ.get("MUTANT"):
        mutants.seed(mutants.MUTANTS[name])
    import experiments.command_line  # noqa: F401 - once, not in each fork
    from tests.conformance import copies, host_syncs, mixed_precision, simulated_device

    simulated_device.register()
    mixed_precision.enable()
    host_syncs.watch()
    copies.make_late()
    if arguments:
        return called(arguments)
    serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
