"""A vector stored for every training sample, sharded over ranks.

Methods that learn with noisy labels keep a running target, a loss history or a label estimate for each sample. With
shuffling, a sample can occur on any rank. The storage is therefore sharded by sample, not by batch. Rank r of W owns
the samples r, r + W, r + 2W, ... and holds N * K / W numbers. For 1.3 million images of 1,000 classes, all ranks
together hold 5.2 GB in float32, and half as much in float16. Each step exchanges only the rows of the global batch,
which are 2 * B * K numbers.

The rows are neither parameters nor buffers, because DDP would overwrite the shards of other ranks with the shard of
rank 0. The checkpoint holds all rows. On loading, they are sharded over any number of ranks. Rank 0 gathers all rows on
the CPU, in chunks.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.distributed import collectives

_ROWS_AT_ONCE = 1 << 16
_NUMBERS_AT_ONCE = 1 << 27
"""Number of rows and of their values that rank 0 gathers from all ranks at once, on its device."""


def share_sizes(global_batch_size: int) -> list[int]:
    """Return the number of samples of a batch on each rank, ordered by rank, as sharded by `GlobalBatches`.

    Args:
        global_batch_size: samples over all ranks.
    """
    processes = collectives.world_size()
    return [len(range(process, global_batch_size, processes)) for process in range(processes)]


def share_start(global_batch_size: int) -> int:
    """Return the first row of this rank's shard of the global batch."""
    return sum(share_sizes(global_batch_size)[: collectives.rank()])


def gather_rows(local: Tensor, counts: list[int]) -> Tensor:
    """Gather the rows of all ranks, ordered by rank, without gradient.

    Args:
        local: this rank's rows `[b, ...]`.
        counts: number of rows on each rank; if given, ranks need not exchange sizes.
    """
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


class PerSample:
    """A row of numbers for each training sample, sharded over ranks, initially zero.

    A module creates this storage in its constructor and calls `allocate` in `on_fit_start`. It saves the rows of
    `gathered()` in checkpoints, and loads them by `restore`.

    Args:
        num_features: K, numbers for each sample.
    """

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.num_samples = 0
        self.num_owned = 0
        self._rows = torch.zeros(0, num_features)
        self._restored = torch.zeros(0, num_features)
        self._exchange = self._rows.device

    def allocate(
        self,
        num_samples: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        exchange: torch.device | str | None = None,
    ) -> "PerSample":
        """Start training with the rows given to `restore`, or with zeros.

        Args:
            num_samples: N, samples of the training set.
            device: device of this rank's rows.
            dtype: dtype of the stored rows; computations use the dtype of the new values.
            exchange: device for communication; default: `device`. If the rows are stored on the CPU and the rank has a
                GPU, the rows of a batch are exchanged through the GPU.

        Returns:
            This object.

        Raises:
            ValueError: if the restored rows are for another number of samples or features.
        """
        rank, processes = collectives.rank(), collectives.world_size()
        self.num_samples = num_samples
        self.num_owned = len(range(rank, num_samples, processes))
        # One row more than owned: results for samples of other ranks are written there.
        self._rows = torch.zeros(self.num_owned + 1, self.num_features, device=device, dtype=dtype)
        self._exchange = self._rows.device if exchange is None else torch.device(exchange)
        if len(self._restored):
            expected = (num_samples, self.num_features)
            if tuple(self._restored.shape) != expected:
                raise ValueError(
                    f"the checkpoint's per-sample state is {list(self._restored.shape)}, but the training set needs "
                    f"{list(expected)}"
                )
            self._rows[:-1] = self._restored[rank::processes].to(self._rows)
            self._restored = torch.zeros(0, self.num_features)  # a view would keep all of it in memory
        return self

    def restore(self, everything: Tensor) -> None:
        """Keep the rows of a checkpoint, `[N, K]`, until `allocate`. If there are none, training starts from zeros."""
        self._restored = everything

    def update(
        self,
        index: Tensor,
        value: Tensor,
        rule: Callable[[Tensor, Tensor], Tensor],
        global_batch_size: int | None = None,
    ) -> Tensor:
        """Update the rows of the global batch, and return this rank's rows.

        Must be called on all ranks in the same step, each with its shard of the batch as given by `GlobalBatches`.

        Args:
            index: samples on this rank, `[b]`, int64; no sample occurs twice in the global batch.
            value: this rank's values for these samples, `[b, K]`, without gradient.
            rule: `(old rows, values) -> new rows`, row by row.
            global_batch_size: samples of the batch over all ranks; needed with more than one rank.

        Returns:
            The new rows of `index`, `[b, K]`, with the dtype and device of `value`.
        """
        rank, processes = collectives.rank(), collectives.world_size()
        if processes == 1:
            row = index.to(self._rows.device)
            self._rows[row] = rule(self._rows[row].to(value), value).to(self._rows)
            return self._rows[row].to(value)
        if global_batch_size is None:
            raise ValueError(
                f"the batch lacks global_batch_size, which {processes} processes need to shard per-sample state"
            )
        counts = share_sizes(global_batch_size)
        all_index, all_value = gather_rows(index, counts), gather_rows(value, counts)
        owned = all_index % processes == rank
        row = torch.where(owned, all_index // processes, self.num_owned).to(self._rows.device)
        self._rows[row] = rule(self._rows[row].to(value), all_value).to(self._rows)
        new = torch.where(owned[:, None], self._rows[row].to(value), 0)
        dist.all_reduce(new)
        start = share_start(global_batch_size)
        return new[start : start + len(index)]

    def gathered(self) -> Tensor:
        """Return all rows, `[N, K]`, on the CPU of rank 0, and no rows elsewhere. Must be called on every rank.

        Before `allocate`, the restored rows are returned. On a single CPU process, the result is the table itself, and
        later updates modify it. Write a checkpoint at once, or copy the result.
        """
        if not self.num_samples:
            return self._restored
        rank, processes = collectives.rank(), collectives.world_size()
        if processes == 1:
            return self._rows[:-1].cpu()
        everything = self._rows.new_empty(self.num_samples if rank == 0 else 0, self._rows.shape[1], device="cpu")
        most = min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // max(self.num_features, 1))
        longest, at_once = share_sizes(self.num_samples)[0], max(most // processes, 1)
        for first in range(0, longest, at_once):
            # Equally many on all ranks, thanks to the additional row.
            own = self._rows[first : min(first + at_once, longest)].to(self._exchange)
            chunk = [torch.empty_like(own) for _ in range(processes)] if rank == 0 else None
            dist.gather(own, chunk)
            for process, rows in enumerate(chunk or ()):
                place = everything[first * processes + process : (first + len(own)) * processes : processes]
                place.copy_(rows[: len(place)])
        return everything
