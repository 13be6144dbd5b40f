"""A vector remembered for every training sample, kept once over all processes.

Methods that learn with noisy labels keep a running target, a loss history or a guess for each sample. A shuffled
epoch brings a sample to any process, so the memory is sharded by sample and not by batch: process r of W owns the
samples r, r + W, r + 2W, ... and holds N * K / W numbers (1.3 million images of 1,000 classes in float32: 5.2 GB over
all processes, half of that in float16). In each step the processes exchange the rows of the global batch alone, 2 * B
* K numbers.

This is neither a parameter nor a buffer: DDP would overwrite what differs between processes with what process 0 has.
It travels in the checkpoint, whole, and is sharded anew on loading, whatever the number of processes. Process 0
collects it on the host, some rows at a time.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.distributed import collectives

_ROWS_AT_ONCE = 1 << 16
_NUMBERS_AT_ONCE = 1 << 27
"""Rows, and numbers in them, that process 0 gets from all processes at once, on its device, when it collects them."""


def share_sizes(global_batch_size: int) -> list[int]:
    """Count the samples of a batch that each process has, in the order of their ranks, as `GlobalBatches` deals them.

    Args:
        global_batch_size: samples over all processes.
    """
    processes = collectives.world_size()
    return [len(range(process, global_batch_size, processes)) for process in range(processes)]


def share_start(global_batch_size: int) -> int:
    """The first row of this process's share among those of all, in the order of their ranks."""
    return sum(share_sizes(global_batch_size)[: collectives.rank()])


def gather_rows(local: Tensor, counts: list[int]) -> Tensor:
    """Rows of all processes, in the order of their ranks, without gradient.

    Args:
        local: `[b, ...]`: this process's rows.
        counts: how many each process has, so that no sizes are exchanged.
    """
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


class PerSample:
    """A row of numbers for each training sample, kept once over all processes, at first zero.

    A module makes it in its constructor, calls `allocate` in `on_fit_start`, keeps `gathered()` in a checkpoint and
    gives it back by `restore`.

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
        """Begin a training: rows are what `restore` was given, or zero.

        Args:
            num_samples: N, samples of the training set.
            device: where this process's rows live.
            dtype: how they are stored; they are combined in the type of the values that come in.
            exchange: where processes exchange them, if that is not where they live: rows on the host of a process with
                a GPU go through the GPU, those of a batch at a time.

        Returns:
            This object.

        Raises:
            ValueError: if what was restored is of another number of samples or features.
        """
        rank, processes = collectives.rank(), collectives.world_size()
        self.num_samples = num_samples
        self.num_owned = len(range(rank, num_samples, processes))
        # One row more than is owned: what is computed for other processes' samples goes there.
        self._rows = torch.zeros(self.num_owned + 1, self.num_features, device=device, dtype=dtype)
        self._exchange = self._rows.device if exchange is None else torch.device(exchange)
        if len(self._restored):
            expected = (num_samples, self.num_features)
            if tuple(self._restored.shape) != expected:
                raise ValueError(
                    f"the checkpoint's per-sample state is {list(self._restored.shape)}, "
                    f"the training set's {list(expected)}"
                )
            self._rows[:-1] = self._restored[rank::processes].to(self._rows)
            self._restored = torch.zeros(0, self.num_features)  # a part would keep all of it
        return self

    def restore(self, everything: Tensor) -> None:
        """Keep the rows of a checkpoint, `[N, K]`, until `allocate`; without any, training begins anew."""
        self._restored = everything

    def update(
        self,
        index: Tensor,
        value: Tensor,
        rule: Callable[[Tensor, Tensor], Tensor],
        global_batch_size: int | None = None,
    ) -> Tensor:
        """Replaces the rows of the global batch and returns this process's part of them.

        All processes call it in the same step, each with the share of the batch that `GlobalBatches` deals it.

        Args:
            index: `[b]`, int64: samples of this process's share; none occurs twice in the global batch.
            value: `[b, K]`: what this process has to say of them, without gradient.
            rule: `(old rows, values) -> new rows`, row by row.
            global_batch_size: samples of the batch over all processes; needed where there is more than one.

        Returns:
            The new rows of `index`, `[b, K]`, in the type of `value` and on its device.
        """
        rank, processes = collectives.rank(), collectives.world_size()
        if processes == 1:
            row = index.to(self._rows.device)
            self._rows[row] = rule(self._rows[row].to(value), value).to(self._rows)
            return self._rows[row].to(value)
        if global_batch_size is None:
            raise ValueError(
                f"the batch lacks global_batch_size, which {processes} processes need to share per-sample state"
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
        """All rows, `[N, K]`, on the CPU of process 0; no rows elsewhere. Every process calls it.

        Before `allocate` they are what was restored. Of one process on the CPU they are the table itself, which goes on
        to change: they are for a checkpoint that is written at once, or copied by whoever writes it later.
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
            # Equally many on all processes: there is one row more.
            own = self._rows[first : min(first + at_once, longest)].to(self._exchange)
            chunk = [torch.empty_like(own) for _ in range(processes)] if rank == 0 else None
            dist.gather(own, chunk)
            for process, rows in enumerate(chunk or ()):
                place = everything[first * processes + process : (first + len(own)) * processes : processes]
                place.copy_(rows[: len(place)])
        return everything
