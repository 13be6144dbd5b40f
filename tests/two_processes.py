"""Call a function of a test in two processes of one group, or more, as a launcher would start them.

The processes are forked, so what the test's process has imported and built is there at once. A process group is made
where Lightning, or the function, asks for one.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

TEN_MINUTES = 600.0
FORK = multiprocessing.get_context("fork")


class Process:
    """One of several processes; it has of `subprocess.Popen` what tests use.

    Args:
        rank: number of the process.
        count: number of processes.
        port: where process 0 waits for the others.
        function: called in the process.
        arguments: its arguments.
    """

    def __init__(
        self, rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self.log = tempfile.TemporaryFile("w+", buffering=1)  # noqa: SIM115 - closed with the object
        self.result, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self._run, args=(rank, count, port, sender, function, arguments))
        self.process.start()
        sender.close()

    def _run(
        self, rank: int, count: int, port: int, sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        for descriptor in (1, 2):
            os.dup2(self.log.fileno(), descriptor)
        sys.stdout = sys.stderr = self.log
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        os.environ |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning reads the variables when it is imported
        try:
            sender.send_bytes(pickle.dumps(function(*arguments)))
        finally:
            # Left to the interpreter's end, the group's threads can outlive what they need and abort the process.
            if dist.is_initialized():
                dist.destroy_process_group()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget  # type: ignore[attr-defined]

    def output(self) -> str:
        """Read what the process has printed so far."""
        self.log.flush()
        return os.pread(self.log.fileno(), 1 << 24, 0).decode()

    def communicate(self, timeout: float = TEN_MINUTES) -> tuple[str, None]:
        self.process.join(timeout)
        return self.output(), None

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.process.join()


TwoProcesses = Callable[..., list[Process]]  # what the fixture `two_processes` gives


def start_two(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Process]:
    """Start both processes, or as many as `count` says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Process(rank, count, port, function, arguments) for rank in range(count)]


def in_two_processes(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """Call a function in both processes, or in `count`, and return what each returns; one that fails ends all."""
    processes = start_two(function, *arguments, count=count)
    try:
        results: list[Any] = [None] * count
        waiting = {process.result: rank for rank, process in enumerate(processes)}
        while waiting:
            ready = connection.wait(list(waiting), TEN_MINUTES)
            assert ready, "".join(process.output() for process in processes)
            for result in ready:
                rank = waiting.pop(result)  # type: ignore[call-overload]
                try:
                    results[rank] = pickle.loads(result.recv_bytes())  # type: ignore[union-attr]
                except EOFError:
                    processes[rank].process.join()
                    raise AssertionError(processes[rank].output()) from None
        for process in processes:
            process.process.join(TEN_MINUTES)
            assert process.returncode == 0, process.output()
        return results
    finally:
        for process in processes:
            process.kill()
