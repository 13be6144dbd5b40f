"""Read what runs below a folder are, in what state, and how far they came. Nothing of a run is imported or executed.

Ten thousand runs are read in about two seconds. Therefore, `config.yaml` is searched for a few lines instead of parsed,
and only the end of `metrics.csv` is read.
"""

import csv
import fcntl
import math
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from experiments.config_files import PROJECT, flatten_settings, mapping_of, settings_of

STATES = ("finished", "running", "killed", "failed")
BLOCK = re.compile(r"^(model|data|trainer):\n((?: .*\n|\n)*)", re.MULTILINE)
CLASS = re.compile(r"^ {2,6}(?:- )?class_path: (?:[\w.]*\.)?(\w+)$", re.MULTILINE)
LIMIT = re.compile(r"^  (max_epochs|max_steps): (\d+)$", re.MULTILINE)
MOST, TAIL = 2**18, 2**12
"""Number of bytes that are read of the beginning and of the end of a file."""


@dataclass
class ListedRun:
    """A run directory.

    Args:
        directory: the directory.
        method: class of the model.
        data: class of the dataset or, without one, of the DataModule.
        state: one of `STATES`.
        reason: error of a failed run.
        epoch: number of the last epoch in `metrics.csv`. None if there is no row.
        metrics: last value of each metric, and the metrics of the test.
        started: time at which `config.yaml` was written, in seconds.
        ended: time of the last result, in seconds.
    """

    directory: Path
    method: str = "-"
    data: str = "-"
    state: str = "killed"
    reason: str = ""
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.started).strftime("%Y-%m-%d %H:%M")

    @property
    def command(self) -> str:
        """Command that continues the run. It is empty for finished and running runs."""
        if self.state in ("finished", "running"):
            return ""
        return f"python train.py fit --resume {shlex.quote(str(self.directory))}"


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the folders with a `config.yaml`, sorted. Links, hidden folders and folders within a run are skipped."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == "config.yaml" and entry.is_file(follow_symlinks=False) for entry in entries):
        yield Path(folder)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from run_directories(Path(entry.path))


def read_run(directory: Path) -> ListedRun:
    """Read what a run is, its state and its last metrics. Unreadable parts are left out."""
    run = ListedRun(directory)
    config, started = _read(directory, "config.yaml")
    run.started = started or 0.0
    blocks = dict(BLOCK.findall(config))
    if model := CLASS.findall(blocks.get("model", "")):
        run.method = model[0]
    if data := CLASS.findall(blocks.get("data", "")):
        run.data = data[min(1, len(data) - 1)]
    limits = {key: int(value) for key, value in LIMIT.findall(blocks.get("trainer", ""))}
    run.epoch, step, last, written = last_metrics(directory)
    test_metrics, tested = _test_metrics(directory)
    run.metrics = last | test_metrics
    run.ended = max(run.started, written, tested or 0.0)
    epochs = 0 if run.epoch is None else run.epoch + 1
    trained = epochs >= limits.get("max_epochs", math.inf) or step >= limits.get("max_steps", math.inf)
    trace, failed = _read(directory, "traceback.txt", end=True)
    complete = tested is not None and (trained or tested >= written)  # what fails later is a prediction, not the run
    if is_written(directory):
        run.state = "running"
    elif failed is not None and failed >= run.ended and not complete:
        run.state, run.ended = "failed", failed
        said = [line for line in trace.split("\n") if line.strip() and not line.startswith(" ")]
        run.reason = said[-1][:300] if said else ""
    elif tested is not None or trained or _ended_early(directory, written):
        run.state = "finished"
    return run


def _ended_early(directory: Path, written: float) -> bool:
    """Return whether `tune` has ended a run, or the run itself, which records its usage after the last metrics."""
    _, recorded = _read(directory, "usage.csv")
    return (directory / "trained.csv").is_file() or (recorded is not None and recorded >= written)


def is_written(directory: Path) -> bool:
    """Return whether a process holds the lock of a run directory, see `experiments.run_directory.writing`."""
    with suppress(OSError):
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def changed_settings(directory: Path) -> list[tuple[str, object, object]]:
    """Compare the settings of `runs/<method>/<config>/...` with `configs/<method>/<config>.yaml`.

    Returns:
        (key, value in the configuration, value in the run) for each key of the configuration whose value differs.
    """
    parts = directory.resolve().parts[-3:]
    config = PROJECT / "configs" / parts[0] / f"{parts[1]}.yaml" if len(parts) == 3 else PROJECT
    if not config.is_file():
        return []
    own = flatten_settings(mapping_of(directory / "config.yaml"))
    return [(key, value, own[key]) for key, value in settings_of(config).items() if key in own and own[key] != value]


def last_metrics(directory: Path) -> tuple[int | None, int, dict[str, float], float]:
    """Read the end of `metrics.csv`.

    Returns:
        The last epoch (None if there is none) and step, the last value of each other column, and the time of writing.
    """
    text, written = _read(directory, "metrics.csv", end=True)
    beginning = text if len(text) < TAIL else _read(directory, "metrics.csv")[0]
    header = beginning.partition("\n")[0].split(",")
    values: dict[str, float] = {}
    for line in reversed(text.split("\n")[1:]):
        cells = line.split(",")  # names of metrics and numbers contain no commas
        if len(cells) == len(header):
            with suppress(ValueError):
                row = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
                if not any(name.startswith(("train/", "val/")) for name in row):
                    row.pop("epoch", None)  # after training, a test has the number of the next epoch
                values = row | values
        if len(values) == len(header):
            break
    epoch, step = values.pop("epoch", math.nan), values.pop("step", 0.0)
    return int(epoch) if math.isfinite(epoch) else None, int(step) if math.isfinite(step) else 0, values, written or 0.0


def _test_metrics(directory: Path) -> tuple[dict[str, float], float | None]:
    """Read the metrics of the test, and the time of writing. The time is None if the run was not tested."""
    text, written = _read(directory, "test_metrics.csv")
    values: dict[str, float] = {}
    for row in csv.reader(text.split("\n")[1:]):
        with suppress(ValueError):
            name, value = row
            values[name] = float(value)
    return values, written


def _read(directory: Path, name: str, end: bool = False) -> tuple[str, float | None]:
    """Read the beginning or the end of a regular file, and the time at which it was written.

    Links are not followed, and pipes are not waited for. Without a regular file, the text is empty, and the time None.
    """
    with suppress(OSError):
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                content = os.pread(descriptor, TAIL if end else MOST, max(0, status.st_size - TAIL) if end else 0)
                return content.decode(errors="replace").replace("\r\n", "\n"), status.st_mtime
        finally:
            os.close(descriptor)
    return "", None
