"""The ranks of a run while they share a job: each learns how the others end, whatever ends them.

Ranks whose shards take different times cannot meet in a collective, whose patience ends after 30 minutes. So they meet
twice when they begin, and by files from then on, in `.<job>.ranks-<token>` beside the job's folder, on storage that all
of them see:

    rank_<number>   `arrived` for each meeting that the rank has come to, and at last `done`, or `failed` and the cause
    step_<number>   what rank 0 returned from a meeting

A rank holds a POSIX lock on its file, which the system releases when the process ends, even by SIGKILL: a file without
lock and without last word is that of a killed rank. What a rank raises because another one ended has that rank's cause,
so all ranks report the first one. File systems without locks show failures, and not kills.

Rank 0 removes the folder when all are done, and those of killed runs before.
"""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.distributed.collectives import all_gather, broadcast, rank, world_size
from datamodules.files.whole_files import write_text

SECONDS_BETWEEN_LOOKS = 0.5
"""How often a rank looks how eight others are; how more are, it looks in proportion more seldom."""
SHORTEST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Seconds between two looks of a waiting rank for what it waits for."""
Returned = TypeVar("Returned")


class PeerFailure(RuntimeError):
    """Another rank failed or was killed; the message is the first cause."""


class Peers:
    """The ranks of a run while they share a job; all ranks enter it together.

    Args:
        folder: the job's folder, on storage that all ranks share.
        told_to_end: whether the run was told to end, as by SIGTERM.
    """

    def __init__(self, folder: Path, told_to_end: Callable[[], bool] = lambda: False) -> None:
        self.folder = folder
        self.told_to_end = told_to_end
        self._file: int | None = None
        self._working: set[int] = set()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.fail(error)

    def open(self) -> None:
        """Begin, together with all other ranks.

        Raises:
            OSError: if this rank cannot write the folder of the ranks, or does not see it.
            PeerFailure: if another rank cannot.
        """
        self._steps, self._next_look, self._parent, self._began_at = 0, 0.0, os.getppid(), time.time_ns()
        if world_size() == 1:
            return
        error: Exception | None = None
        token = secrets.token_hex(4) if rank() == 0 else ""
        if rank() == 0:
            error = self._began(token)
        try:
            token, said = broadcast((token, cause_of(error)))
            if rank() and not said:
                error = self._began(token)
            causes = [said, *all_gather(cause_of(error))]
        except RuntimeError as broken:  # a collective
            self._leave()
            raise PeerFailure(f"another rank was killed, or failed, before this job began: {broken}") from broken
        if first := next(filter(None, causes), ""):
            self._leave()
            raise error or PeerFailure(first)
        self._working = set(range(world_size())) - {rank()}

    def _began(self, token: str) -> Exception | None:
        """Make this rank's file, or return what went wrong."""
        self._ranks = self.folder.with_name(f".{self.folder.name}.ranks-{token}")
        try:
            if rank() == 0:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self._ranks.mkdir()
            elif not self._ranks.is_dir():
                raise FileNotFoundError(
                    f"{self._ranks.parent} was written by rank 0 and is not visible to rank {rank()}: the directory "
                    f"must be on storage that all processes share"
                )
            self._file = os.open(self._ranks / f"rank_{rank()}", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            with suppress(OSError):  # a file system without locks
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except Exception as error:
            return error
        return None

    def _say(self, text: str) -> None:
        if self._file is not None:
            os.write(self._file, f"{text}\n".encode())
            os.fsync(self._file)

    def _said(self, other: int) -> str:
        with suppress(OSError):
            return (self._ranks / f"rank_{other}").read_text(encoding="utf-8", errors="replace")
        return ""

    def check(self) -> None:
        """Look whether it makes sense to go on.

        Raises:
            SIGTERMException: if the run was told to end.
            PeerFailure: if another rank failed or was killed, or the process that started this one is gone.
        """
        if self.told_to_end():
            raise SIGTERMException
        if not self._working or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS * max(1, len(self._working) / 8)
        if not self._ranks.is_dir():
            raise PeerFailure(f"{self._ranks} is gone: another rank has failed")
        for other in sorted(self._working):
            if (ending := self._ending(other)) == "":
                self._working.discard(other)
            elif ending is not None:
                raise PeerFailure(ending)
        # The first process of a machine may outlive the shell that it was started from; others have a launcher.
        if os.environ.get("LOCAL_RANK", "0") != "0" and os.getppid() != self._parent:
            raise PeerFailure("the process that started this one is gone")

    def _ending(self, other: int) -> str | None:
        """Tell how a rank ended: "" when it is done, its cause when it failed, None while it works."""
        killed = is_locked(self._ranks / f"rank_{other}") is False  # asked first: its last word comes before
        text = self._said(other)
        if "failed " in text:
            return text.partition("failed ")[2].strip()
        if text.endswith("done\n"):
            return ""
        return f"rank {other} was killed, or ended without an error of this job" if killed else None

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until something is ready, as long as all other ranks work.

        Args:
            ready: whether it is.
            meanwhile: called between two looks.

        Raises:
            SIGTERMException: see `check`.
            PeerFailure: see `check`.
        """
        seconds = SHORTEST_WAIT
        while not ready():
            self.check()
            meanwhile()
            time.sleep(seconds)
            seconds = min(1.5 * seconds, LONGEST_WAIT)

    def on_first_rank(self, action: Callable[[], Returned], meanwhile: Callable[[], None] = lambda: None) -> Returned:
        """Let rank 0 act when all ranks have come; the others wait, and return what it returned, through JSON.

        Raises:
            PeerFailure: in the others, if the action fails.
        """
        self._steps += 1
        if self._file is None:
            return action()
        note = self._ranks / f"step_{self._steps}"
        if rank() == 0:
            others = range(1, world_size())
            self.wait(lambda: all(self._said(other).count("arrived\n") >= self._steps for other in others), meanwhile)
            returned = action()
            write_text(note, json.dumps(returned))
            return returned
        self._say("arrived")
        self.wait(note.is_file, meanwhile)
        return json.loads(note.read_text(encoding="utf-8"))

    def fail(self, error: BaseException) -> None:
        """Leave the first cause to the others."""
        with suppress(OSError):  # the error is what counts, and the folder may be gone
            self._say(f"failed {cause_of(error)}")
        self._leave()

    def close(self) -> None:
        """Leave without an error when all ranks have come: one that went ahead might wait in a collective too long."""
        try:
            self.on_first_rank(lambda: None)
            if rank() == 0:
                self.wait(lambda: all(self._said(other).endswith("done\n") for other in self._working))
            self._say("done")
        except BaseException as error:
            self.fail(error)
            raise
        self._leave()
        if rank() == 0:
            remove_ended_ranks(self.folder, self._began_at)
            if world_size() > 1:
                shutil.rmtree(self._ranks, ignore_errors=True)

    def _leave(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._working = None, set()


def cause_of(error: BaseException | None) -> str:
    """Describe an error and its rank; one that says what another rank ended by, says no more than that."""
    if error is None or isinstance(error, PeerFailure):
        return str(error or "")
    return f"rank {rank()} failed: {type(error).__name__}: {error}"


def remove_ended_ranks(folder: Path, before: float) -> None:
    """Remove what killed runs of a job have left of their ranks.

    Args:
        folder: the job's folder.
        before: nanoseconds since the epoch: runs that are as old and whose rank 0 holds no lock have ended.
    """
    for ranks in folder.parent.glob(f".{folder.name}.ranks-*"):
        with suppress(OSError):
            if ranks.stat().st_mtime_ns < before and not is_locked(ranks / "rank_0"):
                shutil.rmtree(ranks)


def is_locked(path: Path) -> bool | None:
    """Tell whether another process holds the lock on a file; None where that cannot be told."""
    try:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return None
    return False
