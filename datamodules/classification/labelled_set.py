"""Selected rows of an image source with their given labels, fetched one batch at a time."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.classification.image_sets import ImageSource
from datamodules.loading.global_batches import Request
from datamodules.randomness.counter import sample_uniform

SECOND = 1 << 40
"""Offset added to the epoch number for the second view, so that its random numbers differ from those of the first."""


class LabelledSet(Dataset[dict[str, Any]]):
    """Selected images of a source, with their given labels.

    After labels have been corrected, batches also contain `original_label`.

    Args:
        source: the images.
        row: positions of the selected images in the source, `[n]`. None means all images.
        label: given labels, `[n]`. None means the labels of the source.
        clean_label: true labels, `[n]`. None if the true labels are unknown.
        seed: seed of the training augmentation. If a seed is set, batches contain the epoch number, which is needed for
            augmentation on the device. If `seed` is None, images are not augmented.
        second_view: whether batches contain a second random augmentation of each image.
        origin: index of the dataset that the images come from. Batches contain this index as `origin`. If it is None,
            batches do not have this key.
        repeats: number R of augmentations of each image in an epoch. If R > 1 and there are N images, position i + c N
            stands for augmentation c of image i. Batches then contain the requested positions as `requested`.
    """

    def __init__(
        self,
        source: ImageSource,
        row: Tensor | None = None,
        label: Tensor | None = None,
        clean_label: Tensor | None = None,
        seed: int | None = None,
        second_view: bool = False,
        origin: int | None = None,
        repeats: int = 1,
    ) -> None:
        self.source = source
        self.row = torch.arange(len(source.label)) if row is None else row
        self.given = source.label if label is None else label
        self.label = self.given.clone().share_memory_()  # so that DataLoader workers see corrections
        self.corrected = torch.zeros((), dtype=torch.bool).share_memory_()
        self.clean_label = clean_label
        self.seed = seed
        self.second_view = second_view
        self.origin = origin
        self.repeats = repeats

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    def __len__(self) -> int:
        return len(self.row)

    def correct(self, index: Tensor, label: Tensor) -> None:
        """Change the labels of the samples `index`."""
        self.label[index] = label
        self.corrected.fill_(True)

    def sharing_labels(self, other: "LabelledSet") -> Self:
        """Share the labels and all later corrections with `other`, a set of the same samples."""
        self.given, self.label, self.corrected = other.given, other.label, other.corrected
        return self

    def __getitem__(self, request: Request) -> dict[str, Any]:
        requested, view = request.indices, None
        index = requested if self.repeats == 1 else requested % len(self)
        row = self.row[index]
        batch: dict[str, Any] = {
            "label": self.label[index],
            "index": index,
            "global_batch_size": request.global_batch_size,
        }
        if self.seed is not None:
            batch["epoch"] = request.epoch
            view = self._view(requested, request.epoch)
            if self.repeats > 1:
                batch["requested"] = requested
        batch["image"], batch["data_range"] = self.source.fetch(row, view), self.source.data_range
        if self.second_view:
            other = self._view(requested, request.epoch + SECOND)
            if view is not None and other is not None:
                other = self.source.another_view(view, other)
            batch["second_view"] = self.source.fetch(row, other)
        if self.corrected:
            batch["original_label"] = self.given[index]
        if self.clean_label is not None:
            batch["clean_label"] = self.clean_label[index]
        if self.source.classes is not None:
            batch["classes"] = self.source.classes
        if self.origin is not None:
            batch["origin"] = torch.full_like(index, self.origin)
        if failed := self.source.unreadable:
            rows = zip(index.tolist(), row.tolist(), strict=True)
            batch["unreadable"] = {sample: failed[file] for sample, file in rows if file in failed}
        return batch

    def _view(self, index: Tensor, epoch: int) -> Tensor | None:
        if self.seed is None or self.source.num_uniform == 0:
            return None
        return sample_uniform(self.seed, epoch, index, count=self.source.num_uniform, stream=1)
