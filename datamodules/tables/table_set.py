"""The interface of sets of rows: a plain object that draws or reads its splits, and knows nothing of batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from datamodules.sets import Source, SplitSet


@dataclass(frozen=True)
class Rows(Source):
    """The rows of one split, with what is true of all of them.

    Args:
        columns: tensors `[N, ...]` by the keys that batches have.
        truth: tensors of any shape by key, which every batch has whole; for metrics only.

    Raises:
        ValueError: if there is no column, or columns differ in length.
    """

    columns: Mapping[str, Tensor]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    in_memory = True

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no column"
            raise ValueError(f"columns of a table must have one length, got {listed}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class TableSet(SplitSet[Rows], ABC):
    """A set of rows, which are a function of its arguments and its seed."""

    seed: int | None = None
    """Random seed of what is drawn; None until the DataModule gives its own."""

    @property
    @abstractmethod
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of a training row's value in each column, known without drawing or reading."""
