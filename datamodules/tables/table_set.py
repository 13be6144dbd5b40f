"""Interface of datasets of rows. Datasets generate or read their splits, but do not form batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.sets import Source, SplitSet


class SparseRows(Protocol):
    """A sparse array `[N, D]`, such as a `csr_array` of scipy."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: Any) -> Any:
        """Return the selected rows, as an object with a method `toarray`."""

    def toarray(self) -> NDArray[Any]:
        """Return all rows as a dense array."""


@dataclass(frozen=True)
class Rows(Source):
    """The rows of one split, and ground truth that applies to all rows.

    Args:
        columns: dict that maps batch keys to tensors `[N, ...]`.
        truth: dict that maps batch keys to tensors of any shape. These tensors are added unchanged to every batch, and
            are used only for metrics.
        sparse: dict that maps batch keys to sparse arrays `[N, D]`. Batches contain the selected rows as dense arrays.
    """

    columns: Mapping[str, Tensor]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    sparse: Mapping[str, SparseRows] = field(default_factory=dict)
    in_memory = True

    def __post_init__(self) -> None:
        columns: Mapping[str, Any] = {**self.columns, **self.sparse}
        lengths = {name: column.shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no column"
            raise ValueError(f"columns of a table must have the same length, got {listed}")

    def __len__(self) -> int:
        columns: list[Any] = [*self.columns.values(), *self.sparse.values()]
        return columns[0].shape[0]

    def chosen(self, index: Tensor) -> dict[str, Tensor]:
        """Return the rows at the positions `index`, `[n]`, as a dictionary of columns `[n, ...]`."""
        given = {name: column[index] for name, column in self.columns.items()}
        return given | {name: torch.from_numpy(array[index.numpy()].toarray()) for name, array in self.sparse.items()}

    def dense(self) -> dict[str, Tensor]:
        """Return all rows of all columns."""
        return {**self.columns, **{name: torch.from_numpy(array.toarray()) for name, array in self.sparse.items()}}


class TableSet(SplitSet[Rows], ABC):
    """A dataset of rows. The rows depend only on the arguments and the seed of the dataset."""

    seed: int | None = None
    """Seed of generated data. If this seed is None, the DataModule replaces it with the DataModule's own seed."""

    @property
    @abstractmethod
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of a training row, by column. These shapes are known without generating or reading data."""
