"""Writes what a classifier predicts to one table, whatever the number of samples and of processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from datamodules.files.whole_files import whole_file
from lightning_modules.interfaces import Classifier

VALUES_AT_ONCE = 2**22


def append_predictions(
    file: BinaryIO, index: NDArray[np.int64], prediction: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> None:
    """Appends samples to a part: the number of classes as one int64, then fixed-size rows.

    Args:
        file: open for writing; empty before the first call.
        index: `[B]`.
        prediction: `[B]`.
        probabilities: `[B, K]`.
    """
    rows = np.empty(len(index), dtype=_row(probabilities.shape[1]))
    rows["index"], rows["prediction"], rows["probabilities"] = index, prediction, probabilities
    if file.tell() == 0:
        file.write(np.int64(probabilities.shape[1]).tobytes())
    file.write(rows.tobytes())


def merge_predictions(
    parts: Sequence[Path], path: Path, format: Literal["parquet", "csv"], class_names: Sequence[str] | None = None
) -> int:
    """Merges parts into one table sorted by index, in memory that does not grow with probabilities.

    An index that occurs more than once, as samplers that fill up the last batch cause, is written once.

    Args:
        parts: files of `append_predictions`; a part without samples is an empty file.
        path: the table.
        format: of the table.
        class_names: `[K]`; adds a column `class_name`, the name of the prediction.

    Returns:
        Number of rows.

    Raises:
        FileNotFoundError: if a part is missing.
        ValueError: if the parts and the names disagree on the number of classes, or there is no sample.
    """
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(
                f"{part} is missing: every process writes its predictions there; is the folder shared?"
            )
    tables = [_read_part(part) for part in parts if part.stat().st_size]
    if not tables:
        raise ValueError(f"no sample was predicted, so {path} was not written")
    sizes = {table["probabilities"].shape[1] for table in tables}
    if len(sizes) != 1:
        raise ValueError(f"the processes predicted {sorted(sizes)} classes; expected one number of classes")
    (num_classes,) = sizes
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names has {len(class_names)} names for {num_classes} classes")

    index, order = np.unique(np.concatenate([table["index"] for table in tables]), return_index=True)
    starts = np.cumsum([0, *(len(table) for table in tables)])
    part_of = np.searchsorted(starts, order, side="right") - 1
    rows_at_once = max(1, VALUES_AT_ONCE // num_classes)
    with whole_file(path) as partial, _TableWriter(partial, format, num_classes, class_names) as writer:
        for begin in range(0, len(index), rows_at_once):
            chunk = slice(begin, begin + rows_at_once)
            rows = np.empty(len(index[chunk]), dtype=_row(num_classes))
            for number, table in enumerate(tables):
                here = part_of[chunk] == number
                rows[here] = table[order[chunk][here] - starts[number]]
            writer.write(rows)
    return len(index)


class WritePredictions(Callback):
    """Writes `predictions.parquet` or `predictions.csv` into the run directory during `predict`.

    The columns of either are `index`, `prediction`, `class_name` if the DataModule has `class_names`, and
    `probability_0` ... `probability_{K-1}` (float32), with one row for each sample, sorted by index. `predict_step`
    returns `index` `[B]`, `probabilities` `[B, K]` and `prediction` `[B]`. Each process appends its batches to a file
    of its own, and the first one merges them in the end, so memory does not grow with the set as long as the trainer is
    called with `return_predictions: false`. A `fast_dev_run`, which has no directory, writes nothing. A module that is
    no `Classifier` writes what it predicts itself.

    Args:
        format: of the table.

    Raises:
        ValueError: if `predict_step` returns something else, the trainer has no directory, or there are several
            loaders.
    """

    def __init__(self, format: Literal["parquet", "csv"] = "parquet") -> None:
        if format not in ("parquet", "csv"):
            raise ValueError(f"format must be 'parquet' or 'csv', got {format!r}")
        self.format = format
        self._file: BinaryIO | None = None
        self._wanted = True

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._wanted = isinstance(pl_module, Classifier)
        if not self._wanted:
            return
        directory = trainer.log_dir
        if directory is None and trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if directory is None:
            raise ValueError("WritePredictions: the trainer has no directory; give it a logger or a default_root_dir")
        self._path = Path(directory) / f"predictions.{self.format}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part(trainer, trainer.global_rank).open("wb")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._wanted:
            return
        if dataloader_idx > 0:
            raise ValueError(
                "WritePredictions writes the predictions of one loader; predict_dataloader returned several"
            )
        keys = {"index", "probabilities", "prediction"}
        if not isinstance(outputs, Mapping) or not keys <= set(outputs):
            found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(
                f"WritePredictions needs {sorted(keys)} from predict_step; {type(pl_module).__name__} returns {found}"
            )
        if self._file is not None:
            append_predictions(
                self._file,
                outputs["index"].cpu().numpy(),
                outputs["prediction"].cpu().numpy(),
                outputs["probabilities"].float().cpu().numpy(),
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._file is None:
            return
        self._close()
        trainer.strategy.barrier("predictions are written")
        if trainer.is_global_zero:
            parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
            class_names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
            merge_predictions(parts, self._path, self.format, class_names)
            for part in parts:
                part.unlink()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._file is not None:
            self._close()
            self._part(trainer, trainer.global_rank).unlink(missing_ok=True)

    def _part(self, trainer: Trainer, rank: int) -> Path:
        return self._path.with_name(f"predictions.rank_{rank}_of_{trainer.world_size}")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _row(num_classes: int) -> np.dtype:
    return np.dtype([("index", "<i8"), ("prediction", "<i8"), ("probabilities", "<f4", (num_classes,))])


def _read_part(path: Path) -> NDArray[np.void]:
    num_classes = int(np.fromfile(path, dtype="<i8", count=1)[0])
    return np.memmap(path, dtype=_row(num_classes), mode="r", offset=8)


class _TableWriter:
    """Appends rows to a table on disk."""

    def __init__(self, path: Path, format: str, num_classes: int, class_names: Sequence[str] | None) -> None:
        self.path = path
        self.format = format
        self.num_classes = num_classes
        self.class_names = class_names
        self.parquet: Any = None

    def __enter__(self) -> "_TableWriter":
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.parquet is not None:
            self.parquet.close()

    def write(self, rows: NDArray[np.void]) -> None:
        import pandas as pd

        columns: dict[str, Any] = {"index": rows["index"], "prediction": rows["prediction"]}
        if self.class_names is not None:
            columns["class_name"] = [self.class_names[k] for k in rows["prediction"]]
        columns |= {f"probability_{k}": rows["probabilities"][:, k] for k in range(self.num_classes)}
        if self.format == "csv":
            pd.DataFrame(columns).to_csv(self.path, mode="a", index=False, header=not self.path.exists())
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(columns)
        if self.parquet is None:
            self.parquet = pq.ParquetWriter(self.path, table.schema)
        self.parquet.write_table(table)
