"""Interface of datasets of sequences.

A dataset generates or reads its splits, and its DataModule decides which sequences form a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from datamodules.sets import Source, SplitSet


class SequenceSource(Source, ABC):
    """The sequences of one split."""

    truth: Mapping[str, Tensor] = {}
    """Tensors `[F]` by batch key. They are the same for all sequences."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, index: Tensor, epoch: int) -> Tensor:
        """Return the sequences at given positions `[B]`: floating-point values or uint8 frames, `[B, F, ...]`.

        A generated dataset may return new sequences in each epoch. Here, an epoch is one pass over the split.
        """


class SequenceSet(SplitSet[SequenceSource], ABC):
    """Dataset of sequences that have the same length and time interval."""

    num_times: int
    """Number of observations per sequence, F."""
    interval: float
    """Time between successive observations."""
    shape: tuple[int, ...]
    """Shape of one observation: `[D]`, or `[C, H, W]` for frames."""
    seed: int | None = None
    """Seed of generated data. None means that the DataModule sets this attribute to its own seed."""
