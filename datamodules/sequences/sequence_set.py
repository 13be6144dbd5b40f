"""The interface of sets of sequences: a plain object that draws or reads its splits, and knows nothing of batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from datamodules.sets import Source, SplitSet


class SequenceSource(Source, ABC):
    """The sequences of one split."""

    truth: Mapping[str, Tensor] = {}
    """Tensors `[F]` by the keys that batches have, the same for all sequences."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, index: Tensor, epoch: int) -> Tensor:
        """Draw or read the sequences at positions `[B]`: `[B, F, ...]`, floating point, or uint8 for frames in 0...255.

        A set that is drawn may have new ones in each epoch, a pass through the split.
        """


class SequenceSet(SplitSet[SequenceSource], ABC):
    """A set of sequences of one length and one distance in time."""

    num_times: int
    """F, observations of a sequence."""
    interval: float
    """Time between two of them."""
    shape: tuple[int, ...]
    """Of one observation: `[D]`, or `[C, H, W]` for frames."""
    seed: int | None = None
    """Random seed of what is drawn; None until the DataModule gives its own."""
