"""DataModule for tables, with mini-batches or full batches of rows.

Tables(LowRankMeasurements(dim=20, eigenvalues=[1.0, 1.0], measurements=1600), loading=Loading(passes_per_epoch=10))
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules.corruptions.seeded import with_seed
from datamodules.files.whole_files import whole_file
from datamodules.loading import Loading
from datamodules.loading.global_batches import GlobalBatches, Request
from datamodules.loading.seeded_batches import RequestedSet, SeededBatches, SeededLoader
from datamodules.tables.table_set import Rows, TableSet


class RowSet:
    """Dataset of rows, fetched one request at a time."""

    in_memory = True

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        chosen = self.rows.chosen(request.indices)
        return {**chosen, **self.rows.truth, "index": request.indices, "global_batch_size": request.global_batch_size}


def write_arrays(tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Write named tensors to `rows.npz` in the run directory, if the run has one. Only rank 0 writes the file."""
    directory = trainer.log_dir  # on every rank, because `log_dir` broadcasts
    if directory is not None and trainer.is_global_zero:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        with whole_file(Path(directory, "rows.npz")) as partial:
            np.savez(partial, **arrays)


class KeptBatch:
    """A dataset that returns the same full batch for every request. The batch is built at the first request.

    Args:
        samples: dataset from which the batch is read. All requests must be equal.
        made: function that moves a batch to the device.
    """

    def __init__(self, samples: RequestedSet, made: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.samples = samples
        self.made = made
        self.batch: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        if self.batch is None:
            self.batch = self.made(self.samples[request])
        return self.batch


class Tables(SeededBatches):
    """DataModule that returns batches of table rows (`datamodules.batches.TableBatch` or `GraphBatch`).

    Without a batch size, every batch contains all rows in table order, divided among the ranks. These rows are moved to
    the device only once, so training steps copy no data. Each pass over the rows is then one step. The order of
    mini-batches depends only on (seed, epoch).

    Args:
        table: table to generate or read.
        batch_size: global training batch size, over all ranks. None means all rows.
        shuffle: whether to shuffle rows in each epoch of mini-batches. If false, rows stay in table order, as needed
            for streams.
        rows_on_device: whether to move rows to the device. With False, rows stay on the host, for modules that move a
            batch to the device in parts.
        write_rows: whether to write the training rows and their ground truth to `rows.npz` in the run directory.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        table: TableSet,
        batch_size: int | None = None,
        shuffle: bool = True,
        rows_on_device: bool = True,
        write_rows: bool = False,
        loading: Loading = Loading(),
    ) -> None:
        all_rows = torch.iinfo(torch.int64).max
        super().__init__(all_rows if batch_size is None else batch_size, loading)
        self.evaluation_batch_size = loading.evaluation_batch_size or all_rows
        self._given_table = table
        self.whole = batch_size is None
        self.shuffle = shuffle and not self.whole
        self.rows_on_device = rows_on_device
        self.write_rows = write_rows

    @cached_property
    def table(self) -> TableSet:
        """The table. If no seed was set for the table, it uses the seed of the DataModule."""
        return with_seed(self._given_table, self.seed)

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a training row, by column."""
        return dict(self._given_table.row_shapes)

    @property
    def training_rows(self) -> Mapping[str, Tensor]:
        """All training rows, as generated or read, in dense arrays `[N, ...]` by column."""
        return self.table.training().dense()

    def prepare_data(self) -> None:
        self._given_table.fetch_missing()

    def set_up_training(self) -> None:
        rows = self.table.training()
        self.train_set = RowSet(rows)
        if self.write_rows and self.trainer is not None:
            write_arrays({**rows.dense(), **rows.truth}, self.trainer)
        if self.whole:
            self.batch_size = len(self.train_set)
        validation = self.table.validation()
        self.validation_set = None if validation is None else RowSet(validation)

    def set_up_test(self) -> None:
        self.test_set = RowSet(self.table.test())

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        dtype = torch.promote_types(self.module_dtype, torch.float32)

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        return {key: cast(value) for key, value in batch.items()}

    def _loader(self, samples: RequestedSet, batches: GlobalBatches) -> SeededLoader:
        if batches.shuffle or len(batches) > batches.passes:
            return super()._loader(samples, batches)
        kept = KeptBatch(samples, self._make)
        return SeededLoader(kept, sampler=batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def _make(self, batch: dict[str, Any]) -> dict[str, Any]:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return self._place(self.finish(batch), device)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self._place(batch, device)

    def _place(self, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Move a batch to a device. If rows stay on the host, only ground truth and `index` are moved."""
        stays = () if self.rows_on_device else self.table.row_shapes
        return {key: value if key in stays else move_data_to_device(value, device) for key, value in batch.items()}
