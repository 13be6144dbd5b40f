"""Samplers for images of several sizes: each batch has images of one size, and batches are sharded over ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from datamodules.loading.global_batches import GlobalBatches, Request


class OneSizeBatches(Sampler[Request]):
    """Sampler that shards whole images over ranks without duplicates, in batches of equally sized images.

    Ranks may have different numbers of batches, but every rank has at least one batch.

    Args:
        sizes: height and width of each image.
        batch_size: largest number of images in a batch, over all ranks. On each rank, a batch has at least one image.
        rank: rank of this process.
        world_size: number of ranks.
    """

    def __init__(self, sizes: Sequence[tuple[int, ...]], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if len(sizes) < world_size:
            raise ValueError(f"{len(sizes)} images cannot be split over {world_size} ranks: use at most {len(sizes)}")
        at_once = max(1, min(batch_size, len(sizes)) // world_size)
        of_size: dict[tuple[int, ...], list[int]] = {}
        for position, size in enumerate(sizes):
            of_size.setdefault(tuple(size), []).append(position)
        parts = [same[at : at + at_once] for same in of_size.values() for at in range(0, len(same), at_once)]
        parts.sort()
        rounds = [parts[at : at + world_size] for at in range(0, len(parts), world_size)]
        self.batches = [
            Request(torch.tensor(turn[rank]), 0, sum(map(len, turn))) for turn in rounds if rank < len(turn)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.batches)


class BucketBatches(GlobalBatches):
    """Sampler of training batches of equally sized images, in an order that depends only on (seed, epoch).

    A bucket contains the n images of one size. In each epoch, the images of each bucket are shuffled and split into
    ceil(n / batch_size) batches whose sizes differ by at most one. The batches of all buckets are then shuffled. No
    image is left out or repeated, with one exception. If a batch of a bucket would have fewer images than there are
    ranks, the bucket is instead split into batches of `batch_size` images, and the epoch leaves out the remaining
    images of this bucket.

    Args:
        bucket: bucket index of each sample, `[N]`.
        batch_size: global batch size, over all ranks.
        names: name of each bucket, in the order of bucket indices, for error messages.
        rank: rank of this process.
        world_size: number of ranks.
        seed: seed of the sampling order.
        epoch: first epoch. Lightning sets later epochs.
        resumed: epoch to resume, and number of its batches to skip because training used them before the interruption.
    """

    def __init__(
        self,
        bucket: NDArray[np.int64],
        batch_size: int,
        names: Sequence[str],
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        epoch: int = 0,
        resumed: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(len(bucket), batch_size, rank, world_size, False, seed, epoch, resumed)
        check_buckets(bucket, names, world_size)
        self.members = [np.flatnonzero(bucket == number) for number in np.unique(bucket)]

    @property
    def num_left_out(self) -> int:
        return self.num_samples - sum(int(self._ends(len(each))[-1]) for each in self.members)

    def __len__(self) -> int:
        return sum(len(self._ends(len(each))) for each in self.members)

    def _ends(self, count: int) -> NDArray[np.int64]:
        """Return the end positions of the batches of a bucket with `count` images."""
        batches = -(-count // self.batch_size)
        if count // batches >= self.world_size:
            return np.arange(1, batches + 1) * count // batches
        return np.arange(1, count // self.batch_size + 1) * self.batch_size

    def __iter__(self) -> Iterator[Request]:
        epoch = self.epoch
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        random = np.random.default_rng([self.seed, epoch])
        batches: list[NDArray[np.int64]] = []
        for members in self.members:
            ends = self._ends(len(members))
            batches += np.split(random.permutation(members)[: ends[-1]], ends[:-1])
        for number in random.permutation(len(batches))[first:]:
            whole = torch.from_numpy(batches[number])
            yield Request(whole[self.rank :: self.world_size], epoch, len(whole))


def check_buckets(bucket: NDArray[np.int64], names: Sequence[str], world_size: int) -> None:
    """Reject buckets that have fewer images than there are ranks.

    Args:
        bucket: bucket index of each training image, `[N]`.
        names: name of each bucket, in the order of bucket indices.
        world_size: number of ranks.
    """
    number, count = np.unique(bucket, return_counts=True)
    if len(count) and count.min() < world_size:
        smallest = count.argmin()
        raise ValueError(
            f"the bucket {names[number[smallest]]} has {count[smallest]} training images, fewer than the {world_size} "
            f"ranks: use at most {count[smallest]} ranks, a smaller data.images.buckets.max_ratio, or a larger multiple"
        )
