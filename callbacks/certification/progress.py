"""Show the progress of a certification."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from datamodules.jobs.stores import Row
from lightning_modules.robustness.certificates.statistics import certified_accuracy

SECONDS_BETWEEN_READINGS = 2.0
SECONDS_BETWEEN_LINES = 60.0


class CertificationProgress:
    """Show the progress of all ranks of a certification: finished images, certified accuracy, speed, remaining time.

    On a terminal, a progress bar is shown. If the output is not a terminal, a line is printed every minute instead.

    Args:
        rows: function that returns all rows finished so far.
        total: number of images to certify.
        radii: radii of the certified accuracies, in pixel units; the accuracies at the first three radii are shown.
        enabled: whether to show anything.
    """

    def __init__(
        self, rows: Callable[[], Mapping[int, Row]], total: int, radii: Sequence[float], enabled: bool
    ) -> None:
        self.rows = rows
        self.radii = radii[:3]
        self.enabled = enabled
        self.total = total
        self._console = Console()
        self._bar = Progress(
            TextColumn("certifying"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
            speed_estimate_period=600,
        )
        self._began = time.monotonic()
        self._next_reading = 0.0
        self._next_line = self._began + SECONDS_BETWEEN_LINES

    def __enter__(self) -> Self:
        self._bar.start()
        self._before = set(self.rows())
        self._task = self._bar.add_task("", total=self.total, state="", completed=len(self._before))
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show(num_draws=None, now=True)
        self._bar.stop()

    def show(self, num_draws: int | None, now: bool = False) -> None:
        """Refresh the display, at most every two seconds.

        Args:
            num_draws: number of noise samples evaluated since the start by this rank, or by all ranks if the samples of
                each image are distributed over ranks. None while this rank waits. Samples of other ranks are counted
                when their images are finished.
            now: whether to refresh immediately, regardless of the limit of one refresh every two seconds.
        """
        clock = time.monotonic()
        if not self.enabled or (clock < self._next_reading and not now):
            return
        rows = self.rows()
        reading = time.monotonic() - clock
        self._next_reading = clock + max(SECONDS_BETWEEN_READINGS, 200 * reading)  # at most half a percent of the time
        state = self._accuracy(rows)
        elapsed = max(clock - self._began, 1e-9)
        new = [row for index, row in rows.items() if index not in self._before]
        draws = max(num_draws or 0, sum(int(row["draws"]) for row in new))
        if draws:
            state += f"  {draws / elapsed:,.0f} draws/s"
        self._bar.update(self._task, completed=len(rows), state=state)
        if self._bar.disable and clock >= self._next_line:
            self._next_line = clock + SECONDS_BETWEEN_LINES
            left = round(elapsed * (self.total - len(rows)) / len(new)) if new else None
            state += "" if left is None else f"  {timedelta(seconds=left)} left"
            rank_zero_info(f"certified {len(rows)} of {self.total} images  {state}")

    def _accuracy(self, rows: Mapping[int, Row]) -> str:
        if not rows:
            return ""
        correct = [row["correct"] == "1" for row in rows.values()]
        accuracy = certified_accuracy(correct, [float(row["exact_radius"]) for row in rows.values()], self.radii)
        shown = ", ".join(f"{share:.1%} at {radius:g}" for share, radius in zip(accuracy, self.radii, strict=True))
        return f"certified accuracy {shown}"
