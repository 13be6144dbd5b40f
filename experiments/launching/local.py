"""Launch runs as processes on this machine, each with a share of the GPUs and CPU cores."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.launching.fork_server import AVAILABLE, ForkServer, end_with_parent
from experiments.launching.run_queue import TRAIN, Handle, Job
from experiments.run_request import cores

IMPORTS = ("experiments.command_line",)
"""Modules that every run of this project imports."""


class Fresh:
    """A run in a new Python process."""

    waiting, said = False, ""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Local:
    """Launch runs on this machine.

    A run is forked from a server that has imported the necessary modules (`fork_server`). If forking is impossible or
    `no_fork` is true, a run is a new process.

    Args:
        jobs: number of concurrent runs.
        no_fork: whether to start each run as a new process.
        shares: value of `CUDA_VISIBLE_DEVICES` for each concurrent run. None leaves the variable unchanged.
        threads: number of threads per run. None divides the CPU cores among the concurrent runs.
    """

    def __init__(
        self, jobs: int = 1, no_fork: bool = False, shares: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        self.jobs = jobs
        self.forks = AVAILABLE and not no_fork
        self.shares = shares
        self.threads = threads
        self.note = ""
        self._server: ForkServer | None = None
        self._locks: Sequence[int] = ()
        self._environment: dict[str, str] = {}
        self._taken: dict[int, Handle] = {}  # current or last run of each slot

    def begin(self, runs: int, locks: Sequence[int]) -> int:
        self._locks = locks
        if self._server is not None:
            self._server.hold(locks)
        return self._prepare(runs)

    def ask(self, script: Path, arguments: Sequence[str], given: str, runs: int) -> str | None:
        """Run a script in a process forked from the server, which then also imports the modules of the script.

        Args:
            script: Python file to run.
            arguments: arguments of the script.
            given: text for the standard input of the script.
            runs: number of runs that will follow.

        Returns:
            The output of the script, or None if runs are not forked.
        """
        if not self.forks:
            return None
        self._prepare(runs)
        server = self._server = self._server or ForkServer(Path(TRAIN[1]), self._environment, IMPORTS)
        with tempfile.TemporaryDirectory() as directory:
            said, text = Path(directory, "said"), Path(directory, "given")
            said.touch()
            text.write_text(given, encoding="utf-8")
            forked = server.fork(arguments, said, {}, script, text)
            if forked is None:
                return None
            while forked.poll() is None:
                server.listen(None)
            return said.read_text(encoding="utf-8", errors="replace")

    def _prepare(self, runs: int) -> int:
        """Set the environment of the runs, and return the number of concurrent runs."""
        jobs = max(1, min(self.jobs, runs))
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(self.threads)
        elif jobs > 1:
            self._environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
        return jobs

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> Handle:
        place = next(i for i in range(self.jobs) if i not in self._taken or self._taken[i].poll() is not None)
        own = {} if self.shares is None else {"CUDA_VISIBLE_DEVICES": self.shares[place]}
        self._taken[place] = self.process(job, own)
        return self._taken[place]

    def process(self, job: Job, own: Mapping[str, str]) -> Handle:
        """Start a run with additional environment variables."""
        program, *script = job.command
        if self.forks and program == sys.executable and len(script) == 1:
            if self._server is None or self._server.gone:
                imports = IMPORTS if job.command == TRAIN else ()
                self._server = ForkServer(Path(script[0]), self._environment, imports)
                self._server.hold(self._locks)
            if forked := self._server.fork(job.arguments, job.log, own):
                return forked
            self.forks = False
            reason = self._server.unsafe or "the server that they were forked from ended"
            self.note = f"runs are new processes from here on: {reason}"
        return Fresh(start_process([*job.command, *job.arguments], job.log, {**self._environment, **own}, self._locks))

    def wait(self, seconds: float) -> None:
        if self._server is None or self._server.gone:
            time.sleep(seconds)
        else:
            self._server.listen(seconds)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


def start_process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    ignored: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a new process group. The process appends its output to a log, and ends when its parent ends.

    It inherits the file descriptors `pass_fds`, and ignores the signal `ignored`, which its parent handles.
    """

    def prepare() -> None:
        if AVAILABLE:
            end_with_parent()
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=pass_fds,
            process_group=0,  # child processes end with the run, and Ctrl-C is sent only to the queue
            preexec_fn=prepare,
        )
