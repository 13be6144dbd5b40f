"""Sampling order that depends only on (seed, epoch), not on the number of ranks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Request(NamedTuple):
    """The samples of a batch that one rank fetches."""

    indices: Tensor
    """Dataset positions of the samples in this rank's shard of the global batch, `[local batch]`, int64."""
    epoch: int
    """Index of the pass over the dataset, counted from 0 over all epochs. It seeds the augmentation."""
    global_batch_size: int
    """Number of samples in the batch, over all ranks."""


class GlobalBatches(Sampler[Request]):
    """Sampler that shards each global batch over ranks, without padding or duplicates.

    Use this sampler as `DataLoader(dataset, sampler=GlobalBatches(...), batch_size=None)`. Then `__getitem__` of the
    dataset receives a whole request. Rank r gets samples r, r + world_size, ... of each global batch. All ranks have
    the same number of batches, and each rank has at least one sample of every batch. A short last batch is kept, with
    two exceptions:

    * in training, the batch is dropped if a rank would have fewer than two samples (BatchNorm needs two);
    * in evaluation, the batch is merged into the previous batch if a rank would have no sample.

    Args:
        num_samples: number of samples per pass.
        batch_size: global batch size, over all ranks.
        rank: rank of this process.
        world_size: number of ranks.
        shuffle: whether to use a new random order in each epoch, as in training. False uses the dataset order, as in
            evaluation.
        seed: seed of the sampling order.
        epoch: first epoch. Lightning sets later epochs.
        resumed: epoch to resume, and number of batches to skip in this epoch because they were used before the
            interruption.
        passes: number of passes over the dataset per epoch, each in a different order. Methods with two networks train
            one network per pass.
        draw: function that samples the `num_samples` positions of a pass, for example for class-balanced subsets. None
            means a random permutation.
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
            raise ValueError(f"batch_size {batch_size} (over all ranks) is below the number of ranks, {world_size}")
        if num_samples < world_size:
            raise ValueError(
                f"{num_samples} samples cannot be split over {world_size} ranks: use at most {num_samples} ranks"
            )
        if shuffle and batch_size > num_samples:
            raise ValueError(
                f"batch_size is {batch_size}, more than the {num_samples} samples of the training set: set "
                f"data.batch_size to at most {num_samples}"
            )
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
        """Number of samples per pass that are not in any batch."""
        remainder = self.num_samples % self.batch_size
        return remainder if self.shuffle and remainder < 2 * self.world_size else 0

    def report_left_out(self) -> None:
        """Print how many samples are dropped, if any."""
        if self.num_left_out:
            from lightning.pytorch.utilities import rank_zero_info

            rank_zero_info(
                f"The last {self.num_left_out} of an epoch's {self.num_samples} samples are dropped: "
                f"a rank would have fewer than two of them"
            )

    @property
    def boundaries(self) -> list[int]:
        """List the position at which each batch of a pass begins, and the position at which the last batch ends."""
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
