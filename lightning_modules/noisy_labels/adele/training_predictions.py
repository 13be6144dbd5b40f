"""Predictions for the training images of the running epoch, kept on the host of the process that trained on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.distributed.collectives import rank, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes

_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class PredictedBatch:
    """Hold one process's share of a training batch."""

    index: Tensor
    """`[b]`, int64."""
    label: Tensor
    """`[b, H, W]`, uint8: the labels that were trained on."""
    predicted: Tensor
    """`[b, H, W]`, uint8: the predicted categories, 255 where the prediction is not confident."""
    global_batch_size: int
    """Samples over all processes."""


class TrainingPredictions:
    """Keep the predictions of an epoch's batches. All processes have equally many, and an image is in one of them.

    Images are of one size. Memory: two bytes for each pixel of the images that this process has trained on.
    """

    def __init__(self) -> None:
        self._batches: list[PredictedBatch] = []
        self._restored: dict[str, Tensor] = {}

    def add(self, index: Tensor, label: Tensor, predicted: Tensor, global_batch_size: int) -> None:
        """Copy a batch to the host, without waiting for the device. Shapes as in `PredictedBatch`, of any type."""
        self._batches.append(
            PredictedBatch(_on_host(index), _on_host(label.byte()), _on_host(predicted.byte()), global_batch_size)
        )

    def __iter__(self) -> Iterator[PredictedBatch]:
        """Iterate over this process's batches so far."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # copies that are under way
        return iter(self._batches)

    def clear(self) -> None:
        self._batches = []

    def gathered(self, device: torch.device) -> dict[str, Tensor]:
        """Collect index, label and predicted of all processes' images on the CPU of process 0; nothing elsewhere.

        Every process calls it; they exchange one batch at a time, through `device`.
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
        """Keep what `gathered` gave, whatever the number of processes was, until `begin`."""
        self._restored = everything

    def begin(self) -> None:
        """Begin a training with this process's share of what was restored, or with nothing."""
        self.clear()
        parts = [
            self._restored[key].split(_SAMPLES_AT_ONCE) for key in ("index", "label", "predicted") if self._restored
        ]
        for index, label, predicted in zip(*parts, strict=True):
            share = slice(rank(), None, world_size())
            self._batches.append(PredictedBatch(index[share], label[share], predicted[share], len(index)))
        self._restored = {}


def _on_host(values: Tensor) -> Tensor:
    return values if values.is_meta else values.to("cpu", non_blocking=True)  # shapes without values have no host
