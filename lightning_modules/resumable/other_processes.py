"""Processes that wait for each other's files, and give up when there will be none.

Processes whose shares of the work take different times cannot meet in a collective, which would time out: one that has
done its share looks for the files of the others. It must not look for ever when another one has failed, when the
process that started it is gone, or when the run is told to end.
"""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

SECONDS_BETWEEN_LOOKS = 0.5
"""How often a process looks for files of the others."""


class OtherProcesses:
    """The other processes of a run, while each does its share of a piece of work. All enter it together.

    A process that leaves it by an exception says so to the others in a file, `failed_<run>_<rank>`, which the next run
    in the same directory removes.

    Args:
        trainer: the trainer, during testing.
        directory: a directory that all processes share.
    """

    def __init__(self, trainer: Trainer, directory: Path) -> None:
        self.trainer = trainer
        self.directory = directory
        self._parent = os.getppid()
        self._next_look = 0.0

    def __enter__(self) -> Self:
        if self.trainer.is_global_zero:
            for path in self.directory.glob("failed_*"):
                path.unlink()
        # Shared storage may show a removed file for a while, so the files of a run have a name of their own.
        self._run = self.trainer.strategy.broadcast(secrets.token_hex(4))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.trainer.world_size > 1:
            with suppress(OSError):  # the exception is what counts, and the directory may be gone
                self._path(self.trainer.global_rank).write_text(f"{kind.__name__}: {error}\n")

    def _path(self, rank: int) -> Path:
        return self.directory / f"failed_{self._run}_{rank}"

    def check(self) -> None:
        """Look whether it makes sense to go on.

        Raises:
            SIGTERMException: if the run was told to end.
            RuntimeError: if another process failed, or the one that started this one is gone.
        """
        if self.trainer.received_sigterm:
            raise SIGTERMException
        # The first process of a machine may outlive the shell that it was started from; others have a launcher.
        if self.trainer.local_rank > 0 and os.getppid() != self._parent:
            raise RuntimeError("the process that started this one is gone")
        if self.trainer.world_size == 1 or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
        if not self.directory.is_dir():
            raise RuntimeError(f"{self.directory} is gone: another process has failed")
        for path in sorted(self.directory.glob(f"failed_{self._run}_*")):
            rank = int(path.name.rpartition("_")[2])
            if rank != self.trainer.global_rank:
                raise RuntimeError(f"process {rank} failed, and this one stops: {path.read_text().strip()}")

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], None] | None = None) -> None:
        """Wait until files of the others are there.

        Args:
            ready: whether they are.
            meanwhile: called between two looks.

        Raises:
            SIGTERMException: see `check`.
            RuntimeError: see `check`.
        """
        while not ready():
            self.check()
            if meanwhile is not None:
                meanwhile()
            time.sleep(SECONDS_BETWEEN_LOOKS)


def in_first_process(trainer: Trainer, action: Callable[[], None]) -> None:
    """Let the first process act while the others wait for it in a collective, so the action must be short.

    Raises:
        RuntimeError: in the others, if the action raises an exception in the first.
    """
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            action()
        except Exception as raised:
            error = raised
    said = trainer.strategy.broadcast("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if said:
        raise RuntimeError(f"process 0 failed, and this one stops: {said}")
