"""Calls a function of a test module in two processes that find each other, as a launcher would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from tests.command import ROOT

TwoProcesses = Callable[..., list[subprocess.Popen[str]]]  # what the fixture `two_processes` gives


def start_two(function: Callable[..., None], *arguments: Any) -> list[subprocess.Popen[str]]:
    """Starts both processes; the arguments are ones that `repr` can write."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"},
    }
    call = f"test.call({function.__module__!r}, {function.__name__!r}, {arguments!r})"
    return [
        subprocess.Popen(
            [sys.executable, "-c", f"import {__name__} as test; {call}"],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def call(module: str, name: str, arguments: tuple[Any, ...]) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    try:
        getattr(import_module(module), name)(*arguments)
    finally:
        # Left to the interpreter's end, the group's threads can outlive what they need and abort the process.
        if dist.is_initialized():
            dist.destroy_process_group()
