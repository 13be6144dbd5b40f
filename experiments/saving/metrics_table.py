"""Write `metrics.csv` of a run; a resumed run has the same file as an uninterrupted run."""

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
    """The number of rows of a table, and a digest of the table. Neither changes if columns are added later."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row and add it to the digest, using its values as they are written to the file."""
        cells = sorted((name, str(value)) for name, value in row.items() if value is not None and value != "")
        self._hash.update(json.dumps(cells).encode())
        self.count += 1


def filled_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield each row of a table as a dict that omits empty cells."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name is not None and value}


def find_rows(folders: Iterable[Path], count: int, digest: str | None) -> list[dict[str, str]] | None:
    """Search the tables of several run directories for the rows that were written before a checkpoint.

    Args:
        folders: run directories, which contain `metrics.csv` and backups of older tables.
        count: number of rows that were written before the checkpoint.
        digest: digest of `RowsSoFar` for these rows.

    Returns:
        The rows, or None if no table begins with rows that have this digest.
    """
    if count == 0:
        return []
    tables = (path for folder in folders for path in sorted(folder.glob("metrics*.csv")))
    for path in filter(Path.is_file, tables):  # only regular files, because reading a pipe would block
        with suppress(OSError, ValueError, csv.Error):
            rows, seen = list(islice(filled_rows(path), count)), RowsSoFar()
            for row in rows:
                seen.add(row)
            if seen.count == count and seen.digest == digest:
                return rows
    return None


class MetricsTable(Logger):
    """Logger that writes `metrics.csv`, with one row per log call and one column per metric.

    A resumed run keeps the rows of the table, see `ResumableMetrics`. Lightning's `CSVLogger` would discard them.

    Args:
        directory: run directory.
        continued: whether to append to an existing table, for example when a finished run is tested.
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
            for row in filled_rows(self.path):
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
        """Do nothing, because config.yaml contains the hyperparameters."""

    def refuse_removed(self) -> None:
        """Raise an error if the run directory was removed, so that it is not recreated without the earlier files."""
        directory = self.path.parent
        if not (directory / "config.yaml").is_file() or (self._columns and not self.path.is_file()):
            raise FileNotFoundError(
                f"the run directory {directory} or files in it were removed during the run: start it again"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        tested = {name: str(value) for name, value in metrics.items() if name.startswith("test/")}
        if tested and (written := [before for before in self._tested if tested.items() <= before.items()]):
            self._tested.remove(written[0])  # another test with equal results has a row of its own
            return  # the row exists, because an earlier test was killed before all results were written
        if new := [name for name in row if name not in self._columns]:
            self._columns = ["epoch", "step", *sorted({*self._columns, *new} - {"epoch", "step"})]
            self._write_all(chain(filled_rows(self.path) if self.written.count else (), [row]))
        else:
            with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        self.written.add(row)

    @rank_zero_only
    def restore(self, saved: Mapping[str, Any], checkpoint: Path) -> None:
        """Restore the rows that the table had when a checkpoint was saved.

        Args:
            saved: state of the table that is stored in the checkpoint.
            checkpoint: path of the checkpoint. Its run directory contains the table.
        """
        kept = saved["kept"]
        folders = dict.fromkeys((self.path.parent, *checkpoint.absolute().parents[:2]))
        before = find_rows([*folders], kept, saved["digest"])
        if before is None:
            rank_zero_info(
                f"no metrics.csv near {checkpoint} begins with the {kept} rows that it had when the checkpoint was "
                f"saved: the table of this run begins at this checkpoint"
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
        """Flush the rows to disk, before a checkpoint that refers to them is saved."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def _others_need_more_than(self, kept: int) -> bool:
        """Return whether another checkpoint of this run refers to more than `kept` rows.

        This is the case if a run is resumed from an older checkpoint.
        """
        for path in self.path.parent.glob("checkpoints/*.ckpt"):
            with suppress(ValueError, FileNotFoundError):
                if read_checkpoint(path).get("metrics_table", {"kept": 0})["kept"] > kept:
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
    """Keep the table of a resumed run identical to that of an uninterrupted run.

    A checkpoint stores only the number of rows and a digest, so the size of the checkpoint does not grow with the run.
    It also stores two things that Lightning does not save. The first is the row of an epoch that has just ended,
    because this row is logged after the checkpoint is saved. The second is the running means of an epoch in progress.
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
        if logged is not None:  # the epoch has ended
            if ended := {name: float(value) for name, value in logged.items()}:
                step = steps_trained(trainer) - 1
                rows.append({"step": step, **ended, "epoch": trainer.current_epoch})
        else:
            for key, mean in running_means(trainer).items():
                # The mean over ranks is stored. When the run is resumed, all ranks start from it, for any world size.
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
        """Remove rows and test metrics that were written after the checkpoint.

        If training is complete, only the last row is logged, and only if it is missing.
        """
        if getattr(trainer.fit_loop, "only_ends", False):
            self._complete(trainer)
            return
        if self._saved is not None:
            self.table.restore(self._saved, self._checkpoint)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for path in self.table.path.parent.glob("test_metrics*.csv"):
                path.unlink()

    def _complete(self, trainer: Trainer) -> None:
        """Log the last row if the run was killed after its last checkpoint but before this row was logged."""
        saved = self._saved or {"rows": [], "kept": 0}
        if not saved["rows"] or self.table.written.count >= saved["kept"] + len(saved["rows"]):
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
