"""Queue of runs of `train.py`: start the unfinished runs with any launcher, and show their progress.

The output of a run is written to `log.txt` in its directory. All state of the queue is in the run directories. If the
queue is killed, repeating the command therefore continues it.
"""

import contextlib
import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from datamodules.files.whole_files import owned_folder, write_text
from experiments.config_files import flatten_settings, mapping_of, text_of
from experiments.listing import last_metrics
from experiments.results import duration, validation_metric
from experiments.run_request import (
    PROJECT,
    Run,
    code_fingerprint,
    command_arguments,
    has_saved,
    machine,
    record,
    request,
)

TRAIN = (sys.executable, str(PROJECT / "train.py"))
LOG_LINES = 12
POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5
REPORT_SECONDS = 20.0
GRACE_SECONDS = 10.0
MOST_BARS = 16


@dataclass(frozen=True)
class Job:
    """A run that the queue will start.

    Args:
        run: run to start.
        command: first part of the command line, to which `fit` or `test` and the arguments are appended.
    """

    run: Run
    command: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """Arguments of the command. If the run has a checkpoint, they resume it."""
        return command_arguments(self.run)

    @property
    def log(self) -> Path:
        """Path of the file with the output of the run."""
        return self.run.directory / "log.txt"


class Handle(Protocol):
    """A started or submitted run.

    Attributes:
        said: reason why the run ended. Empty if only the exit status is known.
    """

    said: str

    @property
    def waiting(self) -> bool:
        """Whether the run is still waiting in the queue of a cluster."""

    def poll(self) -> int | None:
        """Return None until the run ends, then its exit status, or the negative signal number if it was killed."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the run and its child processes."""


class Launcher(Protocol):
    """Interface of the launchers, which start jobs and report their states.

    Attributes:
        note: message that is shown to the user once.
    """

    note: str

    def begin(self, runs: int, locks: Sequence[int]) -> int:
        """Prepare to launch runs that inherit the locks. Return the maximum number of concurrent runs."""

    def start(self, jobs: Sequence[Job]) -> Sequence[Handle]:
        """Start or submit jobs."""

    def wait(self, seconds: float) -> None:
        """Sleep for a number of seconds, or until a run may have ended."""

    def close(self) -> None:
        """Release all resources after the last run."""


@dataclass(frozen=True)
class Failure:
    """A run that ended without results, and the last lines of its log."""

    run: Run
    reason: str
    log: str


@dataclass
class Child:
    """A run in progress."""

    run: Run
    process: Handle
    log_start: int
    resumed: bool
    started: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)
    task: TaskID | None = None
    max_epochs: int | None = None
    first_seen: tuple[int, float] | None = None
    last_seen: tuple[int, float] | None = None

    def see(self, epochs: int, now: float) -> None:
        """Record the time at which an epoch was first observed, to estimate the remaining time."""
        self.first_seen = self.first_seen or (epochs, now)
        if self.last_seen is None or epochs > self.last_seen[0]:
            self.last_seen = (epochs, now)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the remaining training time from the observed epochs. Return None if fewer than two have ended."""
        if not self.max_epochs or not self.first_seen or not self.last_seen or self.last_seen == self.first_seen:
            return None
        (before, since), (epochs, then) = self.first_seen, self.last_seen
        epoch = max((then - since) / (epochs - before), now - then)  # the current epoch may be slower than earlier ones
        return max((self.max_epochs - epochs) * epoch - (now - then), 0.0)


@contextlib.contextmanager
def lock(directories: Sequence[Path]) -> Iterator[tuple[int, ...]]:
    """Context manager that locks directories, so that no other queue uses them.

    It waits for a while for the runs of another queue to terminate. It yields the file descriptors of the locks, which
    runs inherit, so that a directory remains locked as long as one of its runs exists.
    """
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(owned_folder(each, GRACE_SECONDS)) for each in dict.fromkeys(directories))


def run_all(
    runs: Sequence[Run],
    *,
    launcher: Launcher,
    console: Console,
    locks: Sequence[int] = (),
    run_command: Sequence[str] = TRAIN,
    look_at: Callable[[Run], None] = lambda run: None,
    later: Iterable[Run] = (),
    total: int | None = None,
    most: float = math.inf,
    failed: Callable[[Failure], None] = lambda failure: None,
) -> list[Failure]:
    """Run all unfinished runs.

    Args:
        runs: the runs, in the order in which they start.
        launcher: launcher of the runs.
        console: console for the progress, which is shown as progress bars on a terminal and otherwise as lines.
        locks: file descriptors from `lock`. Processes on this machine inherit them.
        run_command: command to start a run, to which `fit ...` is appended.
        look_at: function that is called with each finished run. If it raises an exception, all runs are stopped.
        later: further unfinished runs. A run is taken when there is room for it, and may depend on earlier results.
        total: largest number of runs, with those of `later`. None means the number of `runs`.
        most: largest number of concurrent runs, also on a cluster, to which all of `runs` are submitted otherwise.
        failed: function that is called with each failure.

    Returns:
        The failed runs. A failed run does not stop other runs. Ctrl-C and SIGTERM terminate all runs, and raise
        KeyboardInterrupt with the number of finished runs.
    """
    total = len(runs) if total is None else total
    begun = [run for run in runs if not run.finished]
    waiting, unstarted = chain(begun, later), total - (len(runs) - len(begun))
    code = code_fingerprint()
    _say_what_is_kept(runs, code, console)
    for kept in (run for run in runs if run.finished):
        look_at(kept)
    if not unstarted:
        return []
    children: list[Child] = []
    failures: list[Failure] = []
    took: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[unit]}"), TimeElapsedColumn())
    # The refresh thread is disabled, because forking a process with threads is unsafe.
    progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
    overall = progress.add_task("all runs", total=total, completed=total - unstarted, unit="")
    with _sigterm_is_ctrl_c(), progress, contextlib.closing(launcher):
        room = min(launcher.begin(unstarted, locks), most)

        def fail(failure: Failure) -> None:
            _say(console, f"{failure.run.title}: failed, {failure.reason}")
            failures.append(failure)
            failed(failure)

        try:
            while unstarted or children:
                jobs: list[Job] = []
                while unstarted and len(children) + len(jobs) < room:
                    if (run := next(waiting, None)) is None:
                        unstarted = 0
                        break
                    unstarted -= 1
                    if _has_changed(run):
                        fail(Failure(run, f"{run.experiment.config} was changed after the comparison had started", ""))
                    else:
                        jobs.append(Job(run, tuple(run_command)))
                for child in _start(jobs, launcher, code):
                    children.append(child)
                    if not console.is_terminal:
                        verb = "handed over" if child.process.waiting else "continued" if child.resumed else "started"
                        _say(console, f"{child.run.title}: {verb}")
                if launcher.note:
                    _say(console, f"note: {launcher.note}")
                    launcher.note = ""
                for child in [child for child in children if child.process.poll() is not None]:
                    children.remove(child)
                    if child.task is not None:
                        progress.remove_task(child.task)
                    if failure := _end(child):
                        fail(failure)
                    else:
                        look_at(child.run)
                        seconds = time.monotonic() - child.started
                        took.append(seconds)
                        left = duration(_all_left(children, unstarted, took, room))
                        of_all = f"; {left} left for all runs" if unstarted or children else ""
                        _say(console, f"{child.run.title}: finished in {seconds:.0f} s{of_all}")
                for child in children:
                    if child.process.waiting:
                        child.started = time.monotonic()
                    elif console.is_terminal and child.task is None and len(progress.tasks) <= MOST_BARS:
                        child.task = progress.add_task(f"  {escape(child.run.title)}", total=None, unit="starting")
                    if child.task is not None or not console.is_terminal:
                        _show(child, progress, console)
                queued = sum(child.process.waiting for child in children)
                done = total - unstarted - len(children)
                left = f", {duration(_all_left(children, unstarted, took, room))} left" if took else ""
                progress.update(
                    overall, completed=done, unit=f"{done}/{total}{left}{f', {queued} queued' * bool(queued)}"
                )
                progress.refresh()
                if children and (not unstarted or len(children) == room):
                    launcher.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            done = total - unstarted - len(children) - len(failures)
            raise KeyboardInterrupt(f"{done} of {total} runs are finished; ") from None
        finally:
            _terminate(children, console)
    return failures


def _all_left(children: Sequence[Child], waiting: int, took: Sequence[float], jobs: float) -> float:
    """Estimate the remaining time of the queue from the durations of finished runs."""
    mean, now = sum(took) / len(took), time.monotonic()
    return (waiting * mean + sum(max(mean - (now - child.started), 0.0) for child in children)) / jobs


def _say_what_is_kept(runs: Sequence[Run], code: str, console: Console) -> None:
    if kept := [run for run in runs if run.finished]:
        _say(console, f"{len(kept)} of {len(runs)} runs are already finished and kept")
    if other := [run for run in kept if record(run).get("code") != code]:
        changed = f"the code has changed since {len(other)} of them were run, such as {other[0].directory}"
        _say(console, f"note: {changed}; remove those that should run again")


def _has_changed(run: Run) -> bool:
    return any(not file.is_file() or text_of(file) != text for file, text in run.experiment.texts)


def _start(jobs: Sequence[Job], launcher: Launcher, code: str) -> list[Child]:
    begun = []
    for job in jobs:
        job.run.directory.mkdir(parents=True, exist_ok=True)
        resumed = has_saved(job.run)
        # a resumed run keeps the code version with which it was started
        made = record(job.run).get("code", code) if resumed else code
        content = json.dumps({**request(job.run), "code": made, **machine()}, indent=2, ensure_ascii=False)
        write_text(job.run.directory / "request.json", content + "\n")
        with job.log.open("ab") as log:
            log.write(f"$ {shlex.join([*job.command, *job.arguments])}\n".encode())
            begun.append((log.tell(), resumed))
    handles = launcher.start(jobs) if jobs else []
    return [Child(job.run, handle, *own) for job, handle, own in zip(jobs, handles, begun, strict=True)]


def _end(child: Child) -> Failure | None:
    status = child.process.poll() or 0
    if child.run.finished:
        return None
    child.process.signal(signal.SIGKILL)  # kills child processes that the run left behind
    reason = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    if status == 0:
        reason = f"ended without {child.run.last_file.name}"
    reason = child.process.said or reason
    with (child.run.directory / "log.txt").open("rb") as log:
        log.seek(child.log_start)
        lines = log.read().decode(errors="replace").rstrip().splitlines()
    return Failure(child.run, reason, "\n".join(lines[-LOG_LINES:]))


def print_failures(failures: Sequence[Failure], console: Console) -> None:
    """Print the failed runs, each with the last lines and the path of its log."""
    for failure in failures:
        log = failure.run.directory / "log.txt"
        _say(console, f"\n{failure.run.title} failed ({failure.reason}); its log is {log}")
        for line in failure.log.splitlines():
            _say(console, f"  | {line}")


def _say(console: Console, text: str) -> None:
    """Print a text that contains no markup, without breaking its lines."""
    console.print(text, markup=False, soft_wrap=True)


def _show(child: Child, progress: Progress, console: Console) -> None:
    now = time.monotonic()
    if now - child.reported < (REPORT_SECONDS if child.task is None else LOOK_SECONDS):
        return
    child.reported = now
    if child.max_epochs is None:
        child.max_epochs = _max_epochs(child.run.directory)
    epoch, _, metrics, _ = last_metrics(child.run.directory)
    if epoch is None:
        return
    epochs = epoch + 1
    child.see(epochs, now)
    text = f"epoch {epochs}/{child.max_epochs}" if child.max_epochs else f"epoch {epochs}"
    text = f"{text}, {duration(child.seconds_left(now))} left"
    if name := validation_metric(metrics, None):
        text = f"{text}, {name} {metrics[name]:.4g}"
    if epochs == child.max_epochs:
        text = "testing"
    if child.task is None:
        _say(console, f"{child.run.title}: {text}")
    else:
        progress.update(child.task, total=child.max_epochs, completed=epochs, unit=text)


def _max_epochs(directory: Path) -> int | None:
    """Read `trainer.max_epochs`. Return None if the configuration does not exist yet or limits the number of steps."""
    with contextlib.suppress(OSError, ValueError):
        value = flatten_settings(mapping_of(directory / "config.yaml")).get("trainer.max_epochs")
        return value if isinstance(value, int) and value > 0 else None
    return None


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(children: Sequence[Child], console: Console) -> None:
    """Send SIGTERM to the runs and their child processes, and after a waiting time or a second Ctrl-C, send SIGKILL.

    A process that waits for a disk or a cluster may not end in time; it is named and left.
    """
    try:
        _signal(children, signal.SIGTERM)
    finally:
        for child in _signal(children, signal.SIGKILL):
            _say(console, f"{child.run.title} has not ended after SIGKILL and may wait for a disk: end it by hand")


def _signal(children: Sequence[Child], number: signal.Signals) -> list[Child]:
    """Send a signal, and return the runs that do not end within a waiting time."""
    for child in children:
        child.process.signal(number)
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := [child for child in children if child.process.poll() is None]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left
