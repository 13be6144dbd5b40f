"""A second random view of each training image in the same batch."""

from typing import Any

from torch import Tensor

from datamodules.classification.labelled_images import LabelledImages, LabelledSet
from datamodules.loading.augmentation import sample_uniform
from datamodules.loading.global_batches import Request

SECOND = 1 << 40
"""Added to the number of a visit: the second view is that of another visit, which never comes."""


class TwoViewsSet(LabelledSet):
    """A training set whose batches also hold `second_view`."""

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        assert self.seed is not None
        uniform: Tensor | None = None
        if self.source.num_uniform > 0:
            numbers = self.source.num_uniform
            uniform = sample_uniform(self.seed, request.visit + SECOND, request.indices, count=numbers, stream=1)
        batch["second_view"] = self.source.fetch(self.row[request.indices], uniform)
        return batch


class SecondView(LabelledImages):
    """Labelled images whose training batches hold `second_view`, drawn as `image` is, where the attribute says so."""

    second_view = False

    def set_up_training(self) -> None:
        super().set_up_training()
        if self.second_view and self.train_set is not None:
            one = self.train_set
            two = TwoViewsSet(one.source, one.row, one.given, one.clean_label, one.seed)
            self.train_set = two.sharing_labels(one)

    def augmented(self, batch: dict[str, Any], visit: int) -> dict[str, Any]:
        if "second_view" in batch:
            other = {"image": batch["second_view"], "index": batch["index"]}
            batch["second_view"] = super().augmented(other, visit + SECOND)["image"]
        return super().augmented(batch, visit)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "second_view" in batch and self.train_set is not None:
            batch["second_view"] = self.in_unit_interval(batch["second_view"], self.train_set.source.brightest)
        return super().finished(batch)
