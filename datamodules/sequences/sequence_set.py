"""Interface of datasets of sequences. Datasets generate or read their splits and do no batching."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from datamodules.sets import Source, SplitSet


class SequenceSource(Source, ABC):
    """The sequences of one split."""

    truth: Mapping[str, Tensor] = {}
    """Tensors `[F]` by batch key, the same for all sequences."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, index: Tensor, epoch: int) -> Tensor:
        """Return the sequences at the positions `[B]`: floating-point values or uint8 frames `[B, F, ...]`.

        A generated dataset may have new sequences in each epoch. An epoch is one pass over the split.
        """


class SequenceSet(SplitSet[SequenceSource], ABC):
    """A dataset of sequences of equal length and time interval."""

    num_times: int
    """F, the number of observations per sequence."""
    interval: float
    """Time between two observations."""
    shape: tuple[int, ...]
    """Shape of one observation: `[D]`, or `[C, H, W]` for frames."""
    seed: int | None = None
    """Seed of generated data; None until the DataModule sets its own."""
