"""DataModule for sequences (paths or videos) from any dataset.

Sequences(BridgePaths(hurst=0.7), batch_size=32)
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from datamodules.corruptions.seeded import with_seed
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.sequences.sequence_set import SequenceSet, SequenceSource


class RequestedSequences:
    """Dataset of the sequences of a split, indexed by a `Request`."""

    def __init__(self, source: SequenceSource, interval: float) -> None:
        self.source = source
        self.interval = interval
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        return {
            "observed": self.source.fetch(request.indices, request.epoch),
            **self.source.truth,
            "interval": self.interval,
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }


class Sequences(SeededBatches):
    """DataModule with batches of sequences (`datamodules.batches.SequenceBatch`).

    A generated sequence depends only on (seed, split, pass, position).

    Args:
        sequences: dataset of sequences.
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        sequences: SequenceSet,
        batch_size: int = 32,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        self._given_sequences = sequences
        self.interval = sequences.interval
        self.num_times = sequences.num_times

    @cached_property
    def sequences(self) -> SequenceSet:
        """The dataset. If the dataset has no seed, it gets the seed of the DataModule."""
        return with_seed(self._given_sequences, self.seed)

    def prepare_data(self) -> None:
        self._given_sequences.fetch_missing()

    def set_up_training(self) -> None:
        self.train_set = RequestedSequences(self.sequences.training(), self.interval)
        validation = self.sequences.validation()
        self.validation_set = None if validation is None else RequestedSequences(validation, self.interval)

    def set_up_test(self) -> None:
        self.test_set = RequestedSequences(self.sequences.test(), self.interval)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["observed"].dtype == torch.uint8:
            batch["observed"] = self.in_unit_interval(batch["observed"], 255)
        cast = {key: value.to(self.module_dtype) for key, value in batch.items() if _is_floating_point(value)}
        return {**batch, **cast}


def _is_floating_point(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
