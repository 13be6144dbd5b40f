"""What was predicted for each training image in the epoch that is running, on the host of the process that trained on
it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.distributed.per_sample import gather_rows, share_sizes

_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class PredictedBatch:
    """One process's share of a training batch."""

    index: Tensor
    """`[b]`, int64."""
    label: Tensor
    """`[b, H, W]`, uint8: the labels that were trained on."""
    predicted: Tensor
    """`[b, H, W]`, uint8: the predicted categories, 255 where the prediction is not confident."""
    global_size: int
    """Samples over all processes."""


class TrainingPredictions:
    """The batches of an epoch. All processes have equally many, and an image is in one of them.

    Images are of one size. Memory: two bytes for each pixel of the images that this process has trained on.
    """

    def __init__(self) -> None:
        self._batches: list[PredictedBatch] = []

    def add(self, index: Tensor, label: Tensor, predicted: Tensor, global_size: int) -> None:
        """Copies a batch to the host, without waiting for the device. Shapes as in `PredictedBatch`, of any type."""
        self._batches.append(
            PredictedBatch(_on_host(index), _on_host(label.byte()), _on_host(predicted.byte()), global_size)
        )

    def __iter__(self) -> Iterator[PredictedBatch]:
        """The batches so far."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # copies that are under way
        return iter(self._batches)

    def clear(self) -> None:
        self._batches = []

    def gathered(self, device: torch.device) -> dict[str, Tensor]:
        """Index, label and predicted of all processes' images, on the CPU of process 0, and nothing elsewhere.

        Every process calls it; they exchange one batch at a time, through `device`.
        """
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        everything: dict[str, list[Tensor]] = {"index": [], "label": [], "predicted": []}
        for batch in self:
            for key, rows in everything.items():
                own = getattr(batch, key)
                if world_size > 1:
                    own = gather_rows(own.to(device), share_sizes(batch.global_size)).cpu()
                rows.append(own)
        if world_size > 1 and dist.get_rank() != 0:
            return {}
        return {key: torch.cat(rows) for key, rows in everything.items() if rows}

    def load(self, everything: dict[str, Tensor]) -> None:
        """Takes this process's share of what `gathered` gave, whatever the number of processes was."""
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.clear()
        if not everything:
            return
        parts = [everything[key].split(_SAMPLES_AT_ONCE) for key in ("index", "label", "predicted")]
        for index, label, predicted in zip(*parts, strict=True):
            share = slice(rank, None, world_size)
            self._batches.append(PredictedBatch(index[share], label[share], predicted[share], len(index)))


def _on_host(values: Tensor) -> Tensor:
    return values if values.is_meta else values.to("cpu", non_blocking=True)  # shapes without values have no host
