"""Whole images of any sizes, sharded over ranks in batches of one image size."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from datamodules.loading.global_batches import Request


class OneSizeBatches(Sampler[Request]):
    """Shard whole images over ranks, in batches of one image size, without duplicates.

    Ranks may have different numbers of batches, but every rank has at least one batch.

    Args:
        sizes: height and width of each image.
        batch_size: largest number of images in a batch, over all ranks. Each rank gets at least one image per batch.
        rank: rank of this process.
        world_size: number of ranks.

    Raises:
        ValueError: if there are fewer images than ranks.
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
