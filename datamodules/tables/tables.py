"""The DataModule of tables: mini-batches of rows, or all rows in each batch.

Tables(LowRankMeasurements(dim=20, eigenvalues=[1.0, 1.0], measurements=1600), passes_per_epoch=10)
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
from torch.utils.data import DataLoader

from datamodules.corruptions.seeded import seeded
from datamodules.files.whole_files import whole_file
from datamodules.loading.global_batches import GlobalBatches, Request
from datamodules.loading.seeded_batches import RequestedSet, SeededBatches
from datamodules.tables.table_set import Rows, TableSet


class RowSet:
    """Rows that are fetched a request at a time."""

    in_memory = True

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        chosen = self.rows.chosen(request.indices)
        return {**chosen, **self.rows.truth, "index": request.indices, "global_batch_size": request.global_batch_size}


def write_arrays(tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Write tensors by name as `rows.npz` of a run, by its first process; nothing where the run has no directory."""
    directory = trainer.log_dir  # on every process: it is broadcast
    if directory is not None and trainer.is_global_zero:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        with whole_file(Path(directory, "rows.npz")) as partial:
            np.savez(partial, **arrays)


class KeptBatch:
    """Give one batch that holds all rows of a process: made at the first request, and then the same one.

    Args:
        samples: a set whose requests are all alike.
        made: puts a batch where steps find it.
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
    """Batches of rows (`datamodules.batches.TableBatch` and `GraphBatch`).

    Without a batch size all rows are in every batch, in their own order, each process with its share; they are put on
    the device once, and a step copies nothing. Mini-batches come in an order that depends on (seed, epoch) alone.

    Args:
        table: set to draw or read.
        batch_size: training rows of a step over all processes; None takes all of them in every step.
        passes_per_epoch: times that an epoch visits the training rows: the steps of an epoch, where a batch is all.
        shuffle: whether mini-batches have a new order in each epoch; rounds of a stream keep their own.
        evaluation_batch_size: rows of a validation, test or prediction batch over all processes; None takes all.
        rows_on_device: whether rows are put on the device; otherwise they stay on the host, for modules that take some
            of a batch at a time.
        write_rows: whether the run's directory gets the training rows and what is true of them, as `rows.npz`.
        seed: random seed of the table, unless it has its own, and of the order; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        table: TableSet,
        batch_size: int | None = None,
        passes_per_epoch: int = 1,
        shuffle: bool = True,
        evaluation_batch_size: int | None = None,
        rows_on_device: bool = True,
        write_rows: bool = False,
        seed: int | None = None,
    ) -> None:
        all_rows = torch.iinfo(torch.int64).max
        super().__init__(
            all_rows if batch_size is None else batch_size,
            evaluation_batch_size or all_rows,
            passes_per_epoch,
            seed=seed,
        )
        self._given_table = table
        self.whole = batch_size is None
        self.shuffle = shuffle and not self.whole
        self.rows_on_device = rows_on_device
        self.write_rows = write_rows

    @cached_property
    def table(self) -> TableSet:
        """The set, with the seed of the data unless it has its own."""
        return seeded(self._given_table, self.seed)

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a training row's value in each column."""
        return dict(self._given_table.row_shapes)

    @property
    def training_rows(self) -> Mapping[str, Tensor]:
        """All training rows by column, each `[N, ...]`, as the table draws or reads them."""
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

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert self.trainer is not None
        dtype: Any = self.trainer.lightning_module.dtype
        dtype = torch.promote_types(dtype, torch.float32)

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        return {key: cast(value) for key, value in batch.items()}

    def _loader(self, samples: RequestedSet, batches: GlobalBatches) -> DataLoader:
        if batches.shuffle or len(batches) > batches.passes:
            return super()._loader(samples, batches)
        kept = KeptBatch(samples, self._made)
        return DataLoader(kept, sampler=batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def _made(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert self.trainer is not None
        return self._placed(self.finished(batch), self.trainer.strategy.root_device)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self._placed(batch, device)

    def _placed(self, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Put a batch on a device; where rows stay on the host, its truth and index alone."""
        stays = () if self.rows_on_device else self.table.row_shapes
        return {key: value if key in stays else move_data_to_device(value, device) for key, value in batch.items()}
