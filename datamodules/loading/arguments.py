"""Arguments that all DataModules share: how batches are read, and the seed."""

import os
from dataclasses import dataclass

from datamodules.arguments import at_least, within


@dataclass(frozen=True)
class Loading:
    """How a DataModule reads batches.

    Args:
        evaluation_batch_size: global batch size in validation, testing and prediction. None means `batch_size`, all
            rows of a table, or one sample per rank if samples differ in size, as whole images do.
        passes_per_epoch: number of passes over the training set per epoch. Methods that train two networks in turn use
            2.
        num_workers: number of DataLoader workers, at most 64 or 4 per core, whichever is larger. None means 0 for data
            in memory, and otherwise one per free core, at most 8.
        prefetch_factor: number of batches that each worker prefetches.
        seed: seed of all randomness of the data: split, noise, sampling order, augmentation, and datasets without a
            seed of their own. None means the value of `seed_everything`, or 0 if no seed is set.
    """

    evaluation_batch_size: int | None = None
    passes_per_epoch: int = 1
    num_workers: int | None = None
    prefetch_factor: int = 2
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("evaluation_batch_size", "passes_per_epoch", "prefetch_factor"):
            at_least(1, **{f"loading.{name}": getattr(self, name)})
        within(0, max(64, 4 * (os.cpu_count() or 1)), **{"loading.num_workers": self.num_workers})

    def workers(self, in_memory: bool, processes: int) -> int:
        """Return the number of DataLoader workers of a rank.

        Args:
            in_memory: whether the samples are in memory.
            processes: number of ranks on this machine.
        """
        if self.num_workers is not None:
            return self.num_workers
        return 0 if in_memory else free_cores(processes)


def free_cores(processes: int) -> int:
    """Return the number of DataLoader workers per rank.

    The cores are divided among the ranks, and each rank has 1 to 8 workers.

    Args:
        processes: number of ranks on this machine.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // processes, 1), 8)
