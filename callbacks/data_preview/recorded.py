"""The first batches of a split."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from callbacks.data_preview.samples import count_rows

MOST_SAMPLES, MOST_NUMBERS = 1000, 2**24
"""Reading of a split ends after the batch with which one of these numbers is reached."""


@dataclass
class RecordedSplit:
    """The first batches of a split.

    Args:
        name: training, validation, test or prediction.
        batches: flat batches, see `callbacks.data_preview.samples`.
        dataset: the dataset of the DataLoader.
        size: number of samples of the dataset. None if it has no length.
        loaders: number of DataLoaders; the first one is recorded.
    """

    name: str
    batches: list[dict[str, Any]] = field(default_factory=list)
    dataset: Any = None
    size: int | None = None
    loaders: int = 1

    @property
    def samples(self) -> int:
        """Number of samples that were read."""
        return sum(map(count_rows, self.batches))

    @property
    def is_complete(self) -> bool:
        """Whether enough was read."""
        numbers = sum(each.numel() for batch in self.batches for each in batch.values() if isinstance(each, Tensor))
        return self.samples >= MOST_SAMPLES or numbers >= MOST_NUMBERS
