"""Store one vector for each training sample, sharded over ranks.

Methods that learn with noisy labels keep a running target, a loss history or a label estimate for each sample. With
shuffling, the same sample is processed on different ranks in different epochs. Rows are therefore assigned to ranks by
sample index. With N samples, K values for each sample and W ranks, rank r owns the samples r, r + W, r + 2W, ..., and
stores N * K / W numbers. For 1.3 million images and 1,000 classes, the rows of all ranks together take 5.2 GB in
float32, and half of that in float16. In each step, ranks exchange only the rows of the B samples in the global batch (2
* B * K numbers).

The rows are neither parameters nor buffers, because DDP would overwrite those of every rank with the rows of rank 0. A
checkpoint contains all rows, and can be loaded with any number of ranks. To save it, rank 0 gathers all rows on the
CPU, in chunks.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.distributed import collectives

_ROWS_AT_ONCE = 1 << 16
"""Maximum number of rows that rank 0 gathers at once from all ranks, on the device of rank 0."""
_NUMBERS_AT_ONCE = 1 << 27
"""Maximum number of values in the rows that rank 0 gathers at once."""


def share_sizes(global_batch_size: int) -> list[int]:
    """List how many samples of a batch each rank receives; batches are sharded as in `GlobalBatches`.

    Args:
        global_batch_size: total number of samples on all ranks.
    """
    processes = collectives.world_size()
    return [len(range(process, global_batch_size, processes)) for process in range(processes)]


def share_start(global_batch_size: int) -> int:
    """Return the index of the first row of this rank's shard in the global batch."""
    return sum(share_sizes(global_batch_size)[: collectives.rank()])


def gather_rows(local: Tensor, counts: list[int]) -> Tensor:
    """Gather the rows of all ranks, ordered by rank; no gradient flows through the result.

    Args:
        local: this rank's rows `[b, ...]`.
        counts: number of rows on each rank. The caller passes these numbers, so that ranks need not exchange them.
    """
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


class PerSample:
    """Store one row of numbers for each training sample, sharded over ranks; all numbers are initially zero.

    A module creates this storage in its constructor, and calls `allocate` in `on_fit_start`. The module saves the rows
    returned by `gathered()` in checkpoints, and passes them to `restore` when it loads a checkpoint.

    Args:
        num_features: K, number of values for each sample.
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
        """Allocate the rows for training, and fill them with the values passed to `restore`, or else with zeros.

        Args:
            num_samples: N, number of training samples.
            device: device of this rank's rows.
            dtype: dtype of the stored rows; updates are computed in the dtype of the new values.
            exchange: device for communication between ranks; None uses `device`. Pass the GPU if the rank has one but
                stores its rows on the CPU.

        Returns:
            This object.
        """
        rank, processes = collectives.rank(), collectives.world_size()
        self.num_samples = num_samples
        self.num_owned = len(range(rank, num_samples, processes))
        # The additional last row receives the results for samples that other ranks own.
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
            self._restored = torch.zeros(0, self.num_features)  # a view would keep all rows in memory
        return self

    def restore(self, everything: Tensor) -> None:
        """Remember the rows of a checkpoint, `[N, K]`, for the next call of `allocate`; empty rows select zeros."""
        self._restored = everything

    def update(
        self,
        index: Tensor,
        value: Tensor,
        rule: Callable[[Tensor, Tensor], Tensor],
        global_batch_size: int | None = None,
    ) -> Tensor:
        """Update the rows of all samples in the global batch, and return the new rows of this rank's samples.

        All ranks must call this method in the same step, each with its own shard of the batch from `GlobalBatches`.

        Args:
            index: indices of the samples on this rank, `[b]`, int64; a sample must not occur twice in the global batch.
            value: this rank's values for these samples, `[b, K]`, which must not require a gradient.
            rule: function `(old rows, values) -> new rows`; each new row may depend only on the old row and the value
                of the same sample.
            global_batch_size: total number of samples in the batch on all ranks; required with more than one rank.

        Returns:
            The new rows of the samples in `index`, `[b, K]`, with the dtype and device of `value`.
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

    def gather(self, copy: bool = True) -> Tensor:
        """Gather all rows, `[N, K]`, on the CPU of rank 0; other ranks return no rows. All ranks must call this method.

        Before `allocate` is called, the result is the rows passed to `restore`.

        Args:
            copy: whether later updates must leave the result unchanged. A checkpoint that is written immediately needs
                no copy; with a single process on the CPU, the result is then the storage itself.
        """
        if not self.num_samples:
            return self._restored
        rank, processes = collectives.rank(), collectives.world_size()
        if processes == 1:
            return self._rows[:-1].to("cpu", copy=copy)
        everything = self._rows.new_empty(self.num_samples if rank == 0 else 0, self._rows.shape[1], device="cpu")
        most = min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // max(self.num_features, 1))
        longest, at_once = share_sizes(self.num_samples)[0], max(most // processes, 1)
        for first in range(0, longest, at_once):
            # All ranks can send equally many rows, because each rank has the additional last row.
            own = self._rows[first : min(first + at_once, longest)].to(self._exchange)
            chunk = [torch.empty_like(own) for _ in range(processes)] if rank == 0 else None
            dist.gather(own, chunk)
            for process, rows in enumerate(chunk or ()):
                place = everything[first * processes + process : (first + len(own)) * processes : processes]
                place.copy_(rows[: len(place)])
        return everything
