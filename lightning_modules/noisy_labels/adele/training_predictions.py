"""Predictions for the training images of the current epoch, kept in host memory by each rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.distributed.collectives import rank, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes

_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class PredictedBatch:
    """Predictions for this rank's part of a training batch."""

    index: Tensor
    """Dataset indices, `[b]`, int64."""
    label: Tensor
    """Training labels, `[b, H, W]`, uint8."""
    predicted: Tensor
    """Predicted categories, `[b, H, W]`, uint8; 255 where the prediction is not confident."""
    global_batch_size: int
    """Number of samples over all ranks."""


class TrainingPredictions:
    """Predictions for the batches of an epoch, sharded over ranks. All ranks have the same number of batches.

    All images must have one size. Memory: this rank stores two bytes per pixel of its training images.
    """

    def __init__(self) -> None:
        self._batches: list[PredictedBatch] = []
        self._restored: dict[str, Tensor] = {}

    def add(self, index: Tensor, label: Tensor, predicted: Tensor, global_batch_size: int) -> None:
        """Copy a batch to the host asynchronously. Shapes are those of `PredictedBatch`; dtypes may differ."""
        self._batches.append(
            PredictedBatch(_on_host(index), _on_host(label.byte()), _on_host(predicted.byte()), global_batch_size)
        )

    def __iter__(self) -> Iterator[PredictedBatch]:
        """Iterate over the batches that this rank has stored so far."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # wait for asynchronous copies
        return iter(self._batches)

    def clear(self) -> None:
        self._batches = []

    def gathered(self, device: torch.device) -> dict[str, Tensor]:
        """Gather `index`, `label` and `predicted` of all images on the CPU of rank 0; other ranks get an empty dict.

        A collective operation: every rank must call it. Batches are gathered one at a time, via `device`.
        """
        everything: dict[str, list[Tensor]] = {"index": [], "label": [], "predicted": []}
        for batch in self:
            for key, rows in everything.items():
                own = getattr(batch, key)
                if world_size() > 1:
                    own = gather_rows(own.to(device), share_sizes(batch.global_batch_size)).cpu()
                rows.append(own)
        return {key: torch.cat(rows) for key, rows in everything.items() if rows} if rank() == 0 else {}

    def restore(self, everything: dict[str, Tensor]) -> None:
        """Keep the output of `gathered` until `begin`. The output may come from a run with any world size."""
        self._restored = everything

    def begin(self) -> None:
        """Start training with this rank's shard of the restored predictions, or empty if there are none."""
        self.clear()
        parts = [
            self._restored[key].split(_SAMPLES_AT_ONCE) for key in ("index", "label", "predicted") if self._restored
        ]
        for index, label, predicted in zip(*parts, strict=True):
            share = slice(rank(), None, world_size())
            self._batches.append(PredictedBatch(index[share], label[share], predicted[share], len(index)))
        self._restored = {}


def _on_host(values: Tensor) -> Tensor:
    return values if values.is_meta else values.to("cpu", non_blocking=True)  # meta tensors have no data to copy
