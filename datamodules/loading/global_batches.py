"""The order in which samples are visited: a pure function of (seed, epoch), the same for any number of processes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Request(NamedTuple):
    """The samples that one process fetches for one batch."""

    indices: Tensor
    """`[local batch]`, int64: positions in the set, this process's share of the global batch."""
    epoch: int
    """Number of the pass through the set, counted from 0 over all epochs; it seeds the augmentation."""
    global_batch_size: int
    """Samples of the batch over all processes."""


class GlobalBatches(Sampler[Request]):
    """Splits each global batch over the processes, without padding and without duplicates.

    Used as `DataLoader(dataset, sampler=GlobalBatches(...), batch_size=None)`: the dataset's `__getitem__` gets a whole
    request. Process r takes the samples r, r + world_size, ... of each global batch, so all processes have the same
    number of batches and at least one sample of each. A short last batch is kept, except

    * in training, where it would leave a process with fewer than two samples (BatchNorm needs two): it is left out;
    * in evaluation, where it would leave a process with none: it joins the batch before it.

    Args:
        num_samples: samples of an epoch.
        batch_size: samples of a batch over all processes.
        rank: this process.
        world_size: number of processes.
        shuffle: visit the samples in a new order each epoch (training); otherwise in their own order (evaluation).
        seed: random seed of the order.
        epoch: the epoch to begin with; Lightning sets the later ones.
        resumed: an epoch, and its batches that are left out, as they were trained on before an interruption.
        passes: times that an epoch visits the set, each in its own order (two-network methods train one network a
            pass).
        draw: draws an epoch's `num_samples` positions in place of a permutation, for class-balanced subsets.

    Raises:
        ValueError: if the set or the batch is too small for the processes, or the batch larger than the set in
        training.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        resumed: tuple[int, int] = (0, 0),
        passes: int = 1,
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(f"batch_size is {batch_size} over all processes, fewer than the {world_size} processes")
        if num_samples < world_size:
            raise ValueError(
                f"{num_samples} samples cannot be shared by {world_size} processes: use at most {num_samples}"
            )
        if shuffle and batch_size > num_samples:
            raise ValueError(f"batch_size is {batch_size}, more than the {num_samples} samples of the training set")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = epoch
        self.resumed = resumed
        self.passes = passes
        self.draw = draw

    @property
    def num_left_out(self) -> int:
        """Samples of a pass that no batch holds."""
        remainder = self.num_samples % self.batch_size
        return remainder if self.shuffle and remainder < 2 * self.world_size else 0

    @property
    def boundaries(self) -> list[int]:
        """List the positions at which the batches of one pass begin, and the one at which the last ends."""
        remainder = self.num_samples % self.batch_size
        starts = list(range(0, self.num_samples, self.batch_size))
        if remainder and (self.num_left_out or (not self.shuffle and remainder < self.world_size)):
            starts.pop()
        return [*starts, self.num_samples - self.num_left_out]

    def __len__(self) -> int:
        return self.passes * (len(self.boundaries) - 1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Request]:
        epoch, boundaries = self.epoch, self.boundaries
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        batches_per_pass = len(boundaries) - 1
        for one_pass in range(self.passes):
            order = self._order(epoch, one_pass)
            for batch in range(batches_per_pass):
                if one_pass * batches_per_pass + batch < first:
                    continue
                start, stop = boundaries[batch], boundaries[batch + 1]
                share = order[start:stop][self.rank :: self.world_size]
                yield Request(share, epoch * self.passes + one_pass, stop - start)

    def _order(self, epoch: int, one_pass: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.num_samples)
        random = np.random.default_rng([self.seed, epoch, one_pass])
        return torch.from_numpy(random.permutation(self.num_samples) if self.draw is None else self.draw(random))
