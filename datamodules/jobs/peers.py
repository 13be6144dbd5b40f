"""Failure detection among the ranks of a job.

Each rank learns how the other ranks ended, even if they were killed.

Ranks that finish early cannot wait for the others in a collective operation, because it would time out after 30
minutes. Ranks therefore use collectives only at the start (two calls). Afterwards they communicate through files in
`.<job>.ranks-<token>` next to the folder of the job, on shared storage:

    rank_<number>   `arrived` for each synchronisation point that the rank has reached, then `done` or `failed <cause>`
    step_<number>   result of the action that rank 0 ran at a synchronisation point

Each rank holds a POSIX lock on its own file. The operating system releases the lock when the process ends, even by
SIGKILL. An unlocked file without `done` or `failed` therefore belongs to a killed rank. If a rank fails, the other
ranks raise an error with the same cause, so all ranks report the first failure. On file systems without locks, failed
ranks are detected but killed ranks are not.

Rank 0 removes the folder when all ranks are done. Rank 0 also removes the folders of earlier runs that were killed.
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

from datamodules.distributed.collectives import all_gather, broadcast, rank, world_size
from datamodules.files.whole_files import write_text

SECONDS_BETWEEN_LOOKS = 0.5
"""Seconds between two checks of up to eight other ranks. With more ranks, the interval is proportionally longer."""
SHORTEST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Shortest and longest interval between two checks while a rank waits, in seconds."""
Returned = TypeVar("Returned")


class PeerFailure(RuntimeError):
    """Raised if another rank failed or was killed.

    The message gives the cause of the first failure.
    """


class Peers:
    """Context manager that detects failed ranks during a job.

    All ranks must enter the context.

    Args:
        folder: folder of the job. It must be on storage that all ranks share.
        told_to_end: function that returns whether the run was asked to stop, for example by SIGTERM.
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
        """Start the job.

        All ranks must call this method.

        Raises:
            OSError: if this rank cannot see the folder of the ranks, or cannot write to it.
            PeerFailure: if another rank cannot write to the folder.
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
        except RuntimeError as broken:  # raised by a collective operation
            self._leave()
            raise PeerFailure(f"another rank was killed, or failed, before this job began: {broken}") from broken
        if first := next(filter(None, causes), ""):
            self._leave()
            raise error or PeerFailure(first)
        self._working = set(range(world_size())) - {rank()}

    def _began(self, token: str) -> Exception | None:
        """Create the file of this rank. Return the exception if the file cannot be created, and None otherwise."""
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
            with suppress(OSError):  # the file system does not support locks
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except Exception as error:
            return error
        return None

    def _say(self, text: str) -> None:
        if self._file is not None:
            os.write(self._file, f"{text}\n".encode())
            os.fsync(self._file)

    def _state(self, other: int) -> str:
        with suppress(OSError):
            return (self._ranks / f"rank_{other}").read_text(encoding="utf-8", errors="replace")
        return ""

    def check(self) -> None:
        """Raise an error if the run must stop.

        Raises:
            SIGTERMException: if the run was asked to stop.
            PeerFailure: if another rank failed or was killed, or if the parent of this process has ended.
        """
        if self.told_to_end():
            from lightning.pytorch.utilities.exceptions import SIGTERMException

            raise SIGTERMException
        if not self._working or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS * max(1, len(self._working) / 8)
        if not self._ranks.is_dir():
            raise PeerFailure(f"{self._ranks} was removed: another rank has failed")
        for other in sorted(self._working):
            if (ending := self._ending(other)) == "":
                self._working.discard(other)
            elif ending is not None:
                raise PeerFailure(ending)
        # The parent of local rank 0 may be a shell, and local rank 0 may outlive it. Other ranks are children of a
        # launcher.
        if os.environ.get("LOCAL_RANK", "0") != "0" and os.getppid() != self._parent:
            raise PeerFailure("the parent process of this rank has ended")

    def _ending(self, other: int) -> str | None:
        """Return how a rank ended.

        The result is "" if the rank is done, the cause if it failed, and None if it is still working.
        """
        # The lock is checked before the text is read, because a rank writes its last entry before it unlocks.
        killed = is_locked(self._ranks / f"rank_{other}") is False
        text = self._state(other)
        if "failed " in text:
            return text.partition("failed ")[2].strip()
        if text.endswith("done\n"):
            return ""
        return f"rank {other} was killed, or ended without reporting an error" if killed else None

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until `ready` returns true, and raise an error if another rank fails meanwhile.

        Args:
            ready: function that returns whether the wait is over.
            meanwhile: function that is called between two calls of `ready`.

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
        """Run an action on rank 0 after all ranks have called this method.

        The other ranks wait and receive the result, serialised as JSON.

        Raises:
            PeerFailure: on the other ranks, if the action fails.
        """
        self._steps += 1
        if self._file is None:
            return action()
        note = self._ranks / f"step_{self._steps}"
        if rank() == 0:
            others = range(1, world_size())
            self.wait(lambda: all(self._state(other).count("arrived\n") >= self._steps for other in others), meanwhile)
            returned = action()
            write_text(note, json.dumps(returned))
            return returned
        self._say("arrived")
        self.wait(note.is_file, meanwhile)
        return json.loads(note.read_text(encoding="utf-8"))

    def fail(self, error: BaseException) -> None:
        """Report the error of this rank to the other ranks."""
        with suppress(OSError):  # the folder may have been removed, and the original error is more important
            self._say(f"failed {cause_of(error)}")
        self._leave()

    def close(self) -> None:
        """End the job if there was no error on this rank. This method waits for all ranks.

        Without this wait, ranks that finish early might time out in a later collective operation.
        """
        try:
            self.on_first_rank(lambda: None)
            if rank() == 0:
                self.wait(lambda: all(self._state(other).endswith("done\n") for other in self._working))
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
    """Describe an error and the rank on which it occurred, as one text.

    For a `PeerFailure`, the text is its message.
    """
    if error is None or isinstance(error, PeerFailure):
        return str(error or "")
    return f"rank {rank()} failed: {type(error).__name__}: {error}"


def remove_ended_ranks(folder: Path, before: float) -> None:
    """Remove the folders of rank files left behind by killed runs of a job.

    Args:
        folder: folder of the job.
        before: time in nanoseconds since the Unix epoch. Only older folders are removed, and only if rank 0 of their
            run holds no lock. If this lock is free, the run has ended.
    """
    for ranks in folder.parent.glob(f".{folder.name}.ranks-*"):
        with suppress(OSError):
            if ranks.stat().st_mtime_ns < before and not is_locked(ranks / "rank_0"):
                shutil.rmtree(ranks)


def is_locked(path: Path) -> bool | None:
    """Return whether another process holds the lock on a file, or None if this cannot be determined."""
    try:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return None
    return False
