"""Kill a process at each of its file operations, and check the remaining files."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.jobs.peers import Peers

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
FORK = multiprocessing.get_context("fork")


class Points:
    """Counts the points at which a process may be killed, and kills it at one of them.

    The points are before each file is opened for writing, renamed or removed, before each folder is created or removed,
    around each message to the other ranks, and at each call of `pass_by`.

    Args:
        fatal: index of the point at which the process kills itself; None only counts.
    """

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal = fatal
        self.count = 0

    def pass_by(self) -> None:
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def watch(self) -> None:
        """Count the points that the process passes, from now until it ends."""

        def heard(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or (writes and not str(arguments[0]).startswith(("/dev", "/proc"))):
                self.pass_by()

        sys.addaudithook(heard)
        said = Peers._say

        def say(peers: Peers, text: str) -> None:
            self.pass_by()
            said(peers, text)
            self.pass_by()

        Peers._say = say  # type: ignore[method-assign]


def run_until(fatal: int | None, function: Callable[[Points], None]) -> int:
    """Run a function in a forked process that dies at point `fatal`; return the number of points, or -1 if it died."""
    result, sender = FORK.Pipe(duplex=False)

    def main() -> None:
        points = Points(fatal)
        points.watch()
        function(points)
        sender.send(points.count)

    process = FORK.Process(target=main)
    process.start()
    sender.close()
    process.join(60)
    assert process.exitcode == (0 if fatal is None else -signal.SIGKILL)
    return result.recv() if fatal is None else -1


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder by relative path, except partially written files named `all`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.match(".all.partial-*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
