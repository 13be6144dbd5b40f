"""Call a test function in two or more processes of one group, as a launcher would start them.

The processes are forked, so everything that the test process has imported and built is available immediately.
Lightning, or the function, creates the process group when it needs one.
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
    """One of several processes, with the methods of `subprocess.Popen` that tests use.

    Args:
        rank: rank of the process.
        count: number of processes (world size).
        port: port on which rank 0 waits for the other ranks.
        function: function that the process calls.
        arguments: positional arguments of the function.
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
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # otherwise set only at import time
        try:
            sender.send_bytes(pickle.dumps(function(*arguments)))
        finally:
            # The group is destroyed here: if this were left to interpreter shutdown, its threads could use freed
            # resources and abort the process.
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
        """Return the output that the process has printed so far."""
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


TwoProcesses = Callable[..., list[Process]]  # type of the fixture `two_processes`


def start_two(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Process]:
    """Start two processes, or `count` processes, that call the function."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Process(rank, count, port, function, arguments) for rank in range(count)]


def in_two_processes(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """Call a function in `count` processes, and return all results; if one process fails, all are ended."""
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
