"""`metrics.csv` of a run, which after an interruption is that of a run that was never interrupted."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from datamodules.files.whole_files import naming, write_text
from experiments.lightning_internals import logged_of_epoch, running_means, steps_trained
from experiments.run_directory import read_checkpoint
from experiments.saving.end_of_training import ended_early


class RowsSoFar:
    """Counts the rows of a table, with a digest of what they say, whatever columns the file has by then."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row; its values are compared as the file holds them."""
        cells = sorted((name, str(value)) for name, value in row.items() if value is not None and value != "")
        self._hash.update(json.dumps(cells).encode())
        self.count += 1


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table, each without its empty cells."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name is not None and value}


def first_rows(folders: Iterable[Path], count: int, digest: str | None) -> list[dict[str, str]] | None:
    """Find the first rows of the table in one of several run directories.

    Args:
        folders: the run directories, each with `metrics.csv` and tables that were set aside.
        count: how many rows.
        digest: that of `RowsSoFar` after them.

    Returns:
        The rows, or None if there is no table that begins with them.
    """
    if count == 0:
        return []
    tables = (path for folder in folders for path in sorted(folder.glob("metrics*.csv")))
    for path in filter(Path.is_file, tables):  # a pipe would be waited for
        with suppress(OSError, ValueError, csv.Error):
            rows, seen = list(islice(rows_of(path), count)), RowsSoFar()
            for row in rows:
                seen.add(row)
            if seen.count == count and seen.digest == digest:
                return rows
    return None


class MetricsTable(Logger):
    """Writes `metrics.csv`: a row whenever something is logged, a column for every metric.

    Unlike Lightning's `CSVLogger` it keeps the table when a run goes on, see `ResumableMetrics`.

    Args:
        directory: the run directory.
        continued: add to the table that is there, as testing a finished run does.
    """

    def __init__(self, directory: str | os.PathLike[str], continued: bool = False) -> None:
        super().__init__()
        self.path = Path(directory, "metrics.csv")
        self._columns: list[str] = []
        self.written = RowsSoFar()
        self._tested: list[dict[str, str]] = []
        if continued and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self._columns = list(csv.DictReader(file).fieldnames or [])
            for row in rows_of(self.path):
                self.written.add(row)
                if any(name.startswith("test/") for name in row):
                    self._tested.append(row)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsTable":
        return self

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are in config.yaml."""

    def refuse_removed(self) -> None:
        """Ends a run whose directory somebody has removed, where it would be made again without what was there.

        Raises:
            FileNotFoundError: names the directory.
        """
        directory = self.path.parent
        if not (directory / "config.yaml").is_file() or (self._columns and not self.path.is_file()):
            raise FileNotFoundError(
                f"the run directory {directory} was removed, or files in it, while the run went on: begin it again"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        tested = {name: str(value) for name, value in metrics.items() if name.startswith("test/")}
        if tested and any(tested.items() <= before.items() for before in self._tested):
            return  # of a test that was killed before it had written all of its results
        if new := [name for name in row if name not in self._columns]:
            self._columns = ["epoch", "step", *sorted({*self._columns, *new} - {"epoch", "step"})]
            self._write_all(chain(rows_of(self.path) if self.written.count else (), [row]))
        else:
            with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        self.written.add(row)

    @rank_zero_only
    def restore(self, saved: Mapping[str, Any], checkpoint: Path) -> None:
        """Restores the rows that the table had when a checkpoint was saved, where the run resumes from it.

        Args:
            saved: what the checkpoint says of the table.
            checkpoint: its path, beside whose run's table it lies.
        """
        kept = saved.get("kept", 0)  # a checkpoint of earlier versions has all rows itself
        folders = dict.fromkeys((self.path.parent, *checkpoint.absolute().parents[:2]))
        before = first_rows([*folders], kept, saved.get("digest"))
        if before is None:
            rank_zero_info(
                f"no metrics.csv beside {checkpoint} begins with the {kept} rows that it was saved with: the table of "
                f"this run begins where it was saved"
            )
        if before is None or self._others_need_more_than(kept):
            self._set_aside()
        rows = [*(before or []), *saved["rows"]]
        names = {name for row in rows for name in row}
        self._columns = ["epoch", "step", *sorted(names - {"epoch", "step"})]
        self._tested = []
        self.written = RowsSoFar()
        for row in rows:
            self.written.add(row)
        self._write_all(rows)

    def flush(self) -> None:
        """Makes sure that the rows reach the disk before a checkpoint that counts on them."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def _others_need_more_than(self, kept: int) -> bool:
        """Tell whether a checkpoint of this run was saved with more rows, as where an older one is gone on from."""
        for path in self.path.parent.glob("checkpoints/*.ckpt"):
            with suppress(ValueError, FileNotFoundError):
                if read_checkpoint(path).get("metrics_table", {}).get("kept", 0) > kept:
                    return True
        return False

    def _set_aside(self) -> None:
        if self.path.is_file():
            shutil.copyfile(self.path, self.path.with_name(f"metrics_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}.csv"))

    def _write_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


class ResumableMetrics(Callback):
    """Makes the table after a resumed run equal that of a run which was never interrupted.

    A checkpoint says how many rows the table had, with their digest, so that it does not grow with the run. It carries
    what Lightning does not save: the row of the epoch that has just ended, which is logged after the checkpoint, and
    the means that are being accumulated where a checkpoint falls inside an epoch.
    """

    def __init__(self, table: MetricsTable) -> None:
        self.table = table
        self._means: dict[str, tuple[Tensor, Tensor]] = {}
        self._saved: dict[str, Any] | None = None
        self._checkpoint = Path()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            self.table.refuse_removed()
            self.table.flush()
        checkpoint["class_path"] = f"{type(pl_module).__module__}.{type(pl_module).__qualname__}"
        logged = logged_of_epoch(trainer)
        rows: list[dict[str, Any]] = []
        means: dict[str, tuple[Tensor, Tensor]] = {}
        if logged is not None:  # the epoch is over
            if ended := {name: float(value) for name, value in logged.items()}:
                step = steps_trained(trainer) - 1
                rows.append({"step": step, **ended, "epoch": trainer.current_epoch})
        else:
            for key, mean in running_means(trainer).items():
                # The mean over processes, which each of them takes when the run goes on, however many they are.
                total = trainer.strategy.reduce(mean.value.clone(), reduce_op="mean")
                means[key] = (total.cpu(), mean.cumulated_batch_size.cpu())
        written = self.table.written
        checkpoint["metrics_table"] = {
            "kept": written.count,
            "digest": written.digest,
            "rows": rows,
            "means": means,
        }
        checkpoint["ended_early"] = ended_early(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and "metrics_table" in checkpoint:
            self._saved = checkpoint["metrics_table"]
            self._means = checkpoint["metrics_table"]["means"]
            self._checkpoint = Path(str(trainer.ckpt_path))
            own = self._checkpoint.absolute().is_relative_to(self.table.path.parent.absolute())
            if own and checkpoint.get("ended_early", False):
                trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was logged and tested later than the checkpoint. A run that is complete trains no more."""
        if getattr(trainer.fit_loop, "only_ends", False):
            self._complete(trainer)
            return
        if self._saved is not None:
            self.table.restore(self._saved, self._checkpoint)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for path in self.table.path.parent.glob("test_metrics*.csv"):
                path.unlink()

    def _complete(self, trainer: Trainer) -> None:
        """Log the last row, if the run was killed between its last checkpoint and that row."""
        saved = self._saved or {"rows": []}
        if not saved["rows"] or self.table.written.count >= saved.get("kept", 0) + len(saved["rows"]):
            return
        row = dict(saved["rows"][-1])
        self.table.restore(saved, self._checkpoint)
        for logger in trainer.loggers:
            if logger is not self.table:
                logger.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulated = running_means(trainer) if self._means else {}
        for key, (total, count) in self._means.items():
            if (mean := accumulated.get(key)) is not None:
                mean.value = mean.value + total.to(mean.value.device)
                mean.cumulated_batch_size = mean.cumulated_batch_size + count.to(mean.value.device)
        self._means = {}
