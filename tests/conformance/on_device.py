"""Runs of `train.py` on the simulated device, in processes of their own.

    python -m tests.conformance.on_device < COMMANDS

where COMMANDS is JSON: a list of command lines. A line is run in a fork of the process that has imported PyTorch and
Lightning, so that one that ends the interpreter ends alone. The exit status is 1 if a line failed. With arguments they
are the only line.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.command import ROOT, environment
from tests.conformance import mutants

Command = Sequence[str | Path]
TEN_MINUTES = 600


def on_device(*commands: Command, ranks: int = 1, fails: str | None = None, mutant: str | None = None) -> str:
    """Run command lines of `train.py` one after the other on the simulated device, and return what they printed.

    Args:
        commands: the command lines.
        ranks: number of processes of one group, in which collectives take what NCCL takes (`collectives.py`).
        mutant: name of a fault that is seeded (`mutants.py`).
        fails: what the run must say as it fails; None asks that it does not fail.
    """
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "device"}
        group |= {name: str(number) for name, number in numbers.items()}
        seeded = {"MUTANT": mutant} if mutant else {}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                **{"cwd": ROOT, "env": environment() | (group if ranks > 1 else {}) | seeded, "text": True},
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
            )
        )
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.close()
        process.stdin = None
    printed = "".join(process.communicate(timeout=TEN_MINUTES)[0] for process in processes)
    failed = any(process.returncode != 0 for process in processes)
    assert failed == (fails is not None), printed
    assert fails is None or fails in printed, printed
    return printed


def called(command: list[str]) -> int:
    """Run a command line here, where the device is; the runs of `compare` are processes of this file."""
    import train
    from callbacks.generation import folders
    from experiments import commands
    from tests.conformance import simulated_device

    if command[0] == "compare":
        return commands.run("compare", command[1:], (sys.executable, "-m", "tests.conformance.on_device"))
    folders.device_named = lambda name: simulated_device.DEVICE  # the command knows the devices of this machine
    return train.main(command)


def alone(command: list[str]) -> int:
    """Run a command line in a fork of this process, and return its exit status."""
    from tests.conformance import host_syncs

    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        status = called(command)
        print(host_syncs.report())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(arguments: list[str]) -> int:
    if name := os.environ.get("MUTANT"):
        mutants.seed(mutants.MUTANTS[name])
    import experiments.command_line  # noqa: F401 - once, not in each fork
    from tests.conformance import collectives, copies, host_syncs, mixed_precision, simulated_device

    simulated_device.register()
    mixed_precision.enable()
    host_syncs.watch()
    copies.make_late()
    if "WORLD_SIZE" in os.environ:
        collectives.like_nccl()
    if arguments:
        return called(arguments)
    failed = 0
    for command in json.load(sys.stdin):
        print("train.py", *command, flush=True)
        if (status := alone(command)) != 0:
            failed = 1
            print(f"exit status {status}: train.py", *command, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
