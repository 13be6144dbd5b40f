"""Predictions for the training images of the current epoch. Each rank stores its predictions in host memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.distributed.collectives import rank, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes

_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class PredictedBatch:
    """Predictions for the samples of a training batch that are on this rank."""

    index: Tensor
    """Dataset indices, `[b]`, int64."""
    label: Tensor
    """Training labels, `[b, H, W]`, uint8."""
    predicted: Tensor
    """Predicted categories, `[b, H, W]`, uint8; 255 where the prediction is not confident."""
    global_batch_size: int
    """Number of samples in the batch over all ranks."""


class TrainingPredictions:
    """Predictions for the batches of an epoch.

    Each rank stores its part of each batch. All ranks therefore have the same number of batches.

    All images must have the same size. A rank needs two bytes of memory per pixel of its training images.
    """

    def __init__(self) -> None:
        self._batches: list[PredictedBatch] = []
        self._restored: dict[str, Tensor] = {}

    def add(self, index: Tensor, label: Tensor, predicted: Tensor, global_batch_size: int) -> None:
        """Copy a batch to the host asynchronously. Shapes are as in `PredictedBatch`, but dtypes may differ."""
        self._batches.append(
            PredictedBatch(_on_host(index), _on_host(label.byte()), _on_host(predicted.byte()), global_batch_size)
        )

    def __iter__(self) -> Iterator[PredictedBatch]:
        """Iterate over the batches that this rank has stored so far."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # wait for the asynchronous copies
        return iter(self._batches)

    def clear(self) -> None:
        self._batches = []

    def gather(self, device: torch.device) -> dict[str, Tensor]:
        """Gather `index`, `label` and `predicted` of all images on rank 0, in CPU memory.

        All other ranks return an empty dict. This is a collective operation, which every rank must call. Batches are
        gathered one at a time on `device`.
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
        """Keep the output of `gather`, from a run with any world size, for the next call of `begin`."""
        self._restored = everything

    def begin(self) -> None:
        """Start an epoch with this rank's share of the predictions given to `restore`, or without predictions."""
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
