"""Write the predictions of a module that runs on any number of ranks: classes to one table, masks to a folder."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.arguments import one_of
from datamodules.distributed.collectives import all_gather
from datamodules.files.whole_files import csv_text, whole_file
from datamodules.jobs.peers import Peers
from lightning_modules.interfaces import Classifier, class_names

KEYS = {"index", "probabilities", "prediction"}
VALUES_AT_ONCE = 2**22
HEADER = 8
"""Number of bytes in a part file before its rows; these bytes contain the number of classes."""


def append_predictions(
    file: BinaryIO, index: NDArray[np.int64], prediction: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> None:
    """Append samples to a part file. It consists of the number of classes (int64), followed by rows of fixed size.

    Args:
        file: part file, open for writing. It is empty before the first call.
        index: positions in the dataset, `[B]`.
        prediction: predicted classes, `[B]`.
        probabilities: class probabilities, `[B, K]`.
    """
    rows = np.empty(len(index), dtype=_row(probabilities.shape[1]))
    rows["index"], rows["prediction"], rows["probabilities"] = index, prediction, probabilities
    if file.tell() == 0:
        file.write(np.int64(probabilities.shape[1]).tobytes())
    file.write(rows.tobytes())


@dataclass
class PredictedSamples:
    """File names and labels of the predicted samples, if the dataset has them.

    Args:
        name: file names of the samples, `[N]`; None if samples are not files.
        label: labels of the samples, `[N]`, int64, negative if unknown; None if all labels are unknown.
    """

    name: Sequence[str] | None = None
    label: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, dataset: Any) -> "PredictedSamples":
        """Read the file names and image-level labels of a dataset, or of the samples in its `row` if it has one."""
        name, label = getattr(getattr(dataset, "source", None), "names", None), getattr(dataset, "label", None)
        for each in name or ():
            each.encode()  # fail now instead of after the prediction, when the table is written
        row = getattr(dataset, "row", None)
        if name is not None and row is not None:
            name = [name[at] for at in row.tolist()]
        if not (isinstance(label, Tensor) and label.shape == (len(dataset),) and (label >= 0).any()):
            return cls(name)
        return cls(name, label.cpu().numpy())

    def columns(self, index: NDArray[np.int64]) -> dict[str, Any]:
        """Return the columns `name` and `label` for the samples at `index`. The cells of unknown labels are empty."""
        columns: dict[str, Any] = {}
        if self.name is not None:
            columns["name"] = [self.name[at] for at in index]
        if self.label is not None:
            columns["label"] = [int(self.label[at]) if self.label[at] >= 0 else None for at in index]
        return columns


def merge_predictions(
    parts: Sequence[Path],
    path: Path,
    format: Literal["parquet", "csv"],
    names: Sequence[str] | None = None,
    samples: PredictedSamples | None = None,
) -> int:
    """Merge parts into one table sorted by index, without keeping all probabilities in memory.

    An index that occurs several times, for example because a sampler pads the last batch, is written once.

    Args:
        parts: files written by `append_predictions`, one per rank. The file of a rank without samples is empty.
        path: file of the table.
        format: file format of the table.
        names: names of the K classes. If given, the table has an additional column `class_name` with the name of the
            predicted class.
        samples: names and labels of the samples. If given, the table has the additional columns `name` and `label`.

    Returns:
        Number of rows.
    """
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(
                f"the predictions of one rank are missing, {part}: check that all ranks share the folder"
            )
    tables = [_read_part(part) for part in parts if part.stat().st_size > HEADER]
    if not tables:
        raise ValueError(f"no sample was predicted, so {path} was not written")
    sizes = {table["probabilities"].shape[1] for table in tables}
    if len(sizes) != 1:
        raise ValueError(f"the ranks predicted different numbers of classes, {sorted(sizes)}")
    (num_classes,) = sizes
    if names is not None and len(names) != num_classes:
        raise ValueError(f"class_names has {len(names)} names for {num_classes} classes")

    index, order = np.unique(np.concatenate([table["index"] for table in tables]), return_index=True)
    starts = np.cumsum([0, *(len(table) for table in tables)])
    part_of = np.searchsorted(starts, order, side="right") - 1
    rows_at_once = max(1, VALUES_AT_ONCE // num_classes)
    with (
        whole_file(path) as partial,
        _TableWriter(partial, format, num_classes, names, samples or PredictedSamples()) as writer,
    ):
        for begin in range(0, len(index), rows_at_once):
            chunk = slice(begin, begin + rows_at_once)
            rows = np.empty(len(index[chunk]), dtype=_row(num_classes))
            for number, table in enumerate(tables):
                here = part_of[chunk] == number
                rows[here] = table[order[chunk][here] - starts[number]]
            writer.write(rows)
    return len(index)


class WritePredictions(Callback):
    """Write `predictions.parquet` or `predictions.csv`, or masks, to the run directory during `predict`.

    Unreadable images are skipped, and an error at the end names them.

    The table has a row for each sample, sorted by index, with the columns `index`, `name` if samples are files, `label`
    if known, `prediction`, `class_name` if the DataModule has `class_names`, and `probability_0` ...
    `probability_{K-1}` (float32). The module's `predict_step` must return `index` `[B]`, `probabilities` `[B, K]` and
    `prediction` `[B]`. Each rank appends its batches to its own file, and rank 0 merges the files at the end. Memory
    therefore does not grow with the dataset. The trainer must be called with `return_predictions: false`. A
    `fast_dev_run` writes nothing. The predictions of a module without `num_classes` are not written; such a module must
    write them itself.

    The `predict_step` of a segmenter must return `index` `[B]` and `prediction` `[B, H, W]`, with at most 256 classes.
    Masks are written to `predictions/<index>.png`, or to `predictions/<name>.png` if images are files. The pixel values
    of masks are class numbers. The folder `predictions` is created when all masks are written.

    Args:
        format: file format of the table: `parquet` or `csv`.
    """

    def __init__(self, format: Literal["parquet", "csv"] = "parquet") -> None:
        one_of(("parquet", "csv"), format=format)
        self.format = format
        self._file: BinaryIO | None = None
        self._peers: Peers | None = None
        self._unreadable: dict[int, str] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, Classifier):
            return
        directory = trainer.log_dir
        if directory is None and trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if directory is None:
            raise ValueError("WritePredictions: the trainer has no directory; give it a logger or a default_root_dir")
        self._path = Path(directory) / f"predictions.{self.format}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._masks = self._path.with_name("predictions.partial")
        loaders = trainer.predict_dataloaders
        loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        self._samples = PredictedSamples.of(getattr(loader, "dataset", None))
        self._peers = Peers(self._path, lambda: trainer.received_sigterm)
        self._peers.open()
        self._peers.on_first_rank(lambda: shutil.rmtree(self._masks, ignore_errors=True))  # left by a killed run
        self._unreadable = {}
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
        if self._file is None or self._peers is None:
            return
        self._peers.check()
        unreadable = batch.get("unreadable", {}) if isinstance(batch, Mapping) else {}
        self._unreadable |= unreadable
        if dataloader_idx > 0:
            raise ValueError("WritePredictions writes one loader's predictions; predict_dataloader returned several")
        if isinstance(outputs, Mapping) and getattr(outputs.get("prediction"), "ndim", 1) == 3:
            self._write_masks(outputs["index"], outputs["prediction"], unreadable)
            return
        if not (isinstance(outputs, Mapping) and outputs.keys() >= KEYS):
            found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(
                f"WritePredictions needs {sorted(KEYS)} from predict_step; {type(pl_module).__name__} returns {found}"
            )
        index, prediction = (outputs[key].cpu().numpy() for key in ("index", "prediction"))
        probabilities = outputs["probabilities"].float().cpu().numpy()
        if unreadable:
            kept = ~np.isin(index, list(unreadable))
            index, prediction, probabilities = index[kept], prediction[kept], probabilities[kept]
        append_predictions(self._file, index, prediction, probabilities)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._file is None or self._peers is None:
            return
        self._close()
        self._peers.on_first_rank(lambda: None)  # so that no rank waits in a collective for a rank that still predicts
        unreadable = {index: reason for each in all_gather(self._unreadable) for index, reason in each.items()}

        def merge() -> None:
            parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
            if self._masks.exists():
                shutil.rmtree(self._path.with_suffix(""), ignore_errors=True)
                folder = self._masks.rename(self._path.with_suffix(""))
                rank_zero_info(f"Masks are written to {folder}: one PNG file per image, pixel values are class numbers")
            elif not unreadable or any(part.stat().st_size > HEADER for part in parts):
                rows = merge_predictions(parts, self._path, self.format, class_names(trainer), self._samples)
                rank_zero_info(f"Predictions are written to {self._path}: {rows} rows with class and probabilities")
            for part in parts:
                part.unlink()

        self._peers.on_first_rank(merge)
        self._peers.close()
        if unreadable:
            reasons = "; ".join(reason for _, reason in sorted(unreadable.items()))
            raise ValueError(f"all images are predicted except {len(unreadable)}: {reasons}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._peers is None:
            return
        self._peers.fail(exception)
        if self._file is not None:
            self._close()
            self._part(trainer, trainer.global_rank).unlink(missing_ok=True)
            shutil.rmtree(self._masks, ignore_errors=True)

    def _write_masks(self, index: Tensor, prediction: Tensor, unreadable: Mapping[int, str]) -> None:
        names = self._samples.name
        for sample, mask in zip(index.tolist(), prediction.byte().cpu().numpy(), strict=True):
            if sample in unreadable:
                continue
            path = self._masks / (f"{sample:06d}.png" if names is None else f"{names[sample]}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)

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
    return np.memmap(path, dtype=_row(num_classes), mode="r", offset=HEADER)


class _TableWriter:
    """Append rows to a table on disk."""

    def __init__(
        self,
        path: Path,
        format: Literal["parquet", "csv"],
        num_classes: int,
        names: Sequence[str] | None,
        samples: PredictedSamples,
    ) -> None:
        self.path = path
        self.format = format
        self.num_classes = num_classes
        self.names = names
        self.samples = samples
        self.parquet: Any = None

    def __enter__(self) -> "_TableWriter":
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.parquet is not None:
            self.parquet.close()

    def write(self, rows: NDArray[np.void]) -> None:
        known = self.samples.columns(rows["index"])
        columns: dict[str, Any] = {"index": rows["index"], **known, "prediction": rows["prediction"]}
        if self.names is not None:
            columns["class_name"] = [self.names[k] for k in rows["prediction"]]
        columns |= {f"probability_{k}": rows["probabilities"][:, k] for k in range(self.num_classes)}
        if self.format == "csv":
            import pandas as pd

            if "label" in columns:
                columns["label"] = pd.array(columns["label"], dtype="Int64")
            text = csv_text(pd.DataFrame(columns), header=not self.path.exists())
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        if "label" in columns:
            columns["label"] = pa.array(columns["label"], pa.int64())
        table = pa.table(columns)
        self.parquet = self.parquet or pq.ParquetWriter(self.path, table.schema)
        self.parquet.write_table(table)
