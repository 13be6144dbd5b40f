"""A data set together with sets of other images, which a detector is to tell from its test images."""

import re
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.classification.labelled_images import ImageSource, LabelledImages, LabelledSet
from datamodules.classification.ood_images import OODImages
from datamodules.loading.global_batches import Request

IN_DISTRIBUTION = "in_distribution"


class SetOfOrigin(LabelledSet):
    """Images whose batches say which set they are from."""

    def __init__(self, source: ImageSource, origin: int) -> None:
        super().__init__(source, torch.arange(len(source.label)), source.label, None, seed=None)
        self.origin = origin

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        batch["origin"] = torch.full_like(batch["index"], self.origin)
        return batch


class OutOfDistribution(LightningDataModule):
    """A data set for training, which is tested together with sets of out-of-distribution images, a loader each.

    Test batches have the key `origin`: 0 for the set's own images, and otherwise the position of an out-of-distribution
    set, counted from 1; `origin_names` names them. Out-of-distribution images have the label -1. Training, validation
    and prediction are those of the data set.

    Args:
        data: the data set; its `seed` becomes that of this one.
        ood: sets of out-of-distribution images of the same shape, by the names that metrics give them.
        seed: seeds all that is drawn at random. On the command line it is `seed_everything` unless it is set.

    Raises:
        ValueError: if there is no other set, or a name has other characters than letters, digits, `_`, `.` and `-`.
    """

    def __init__(self, data: LabelledImages, ood: dict[str, OODImages], seed: int | None = None) -> None:
        super().__init__()
        if not ood:
            raise ValueError("ood must name at least one set, got {}")
        for name in ood:
            if not re.fullmatch(r"[\w.-]+", name) or name == IN_DISTRIBUTION:
                raise ValueError(
                    f"ood: names must be of letters, digits, '_', '.' and '-', and not {IN_DISTRIBUTION}, got {name!r}"
                )
        self.data = data
        self.ood = ood
        self.seed = 0 if seed is None else seed
        data.seed = self.seed
        self.sets: list[SetOfOrigin] = []

    @property
    def num_classes(self) -> int:
        return self.data.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.data.image_shape

    @property
    def class_names(self) -> list[str] | None:
        return self.data.class_names

    @property
    def batch_size(self) -> int:
        return self.data.batch_size

    @property
    def num_train_samples(self) -> int:
        """Images of the training set."""
        return self.data.num_train_samples

    @property
    def origin_names(self) -> list[str]:
        """What each value of `origin` stands for."""
        return [IN_DISTRIBUTION, *self.ood]

    def prepare_data(self) -> None:
        self.data.prepare_data()
        for images in self.ood.values():
            images.fetch_missing()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)
        if stage == "test" and not self.sets:
            assert self.data.test_set is not None
            self.sets = [SetOfOrigin(self.data.test_set.source, 0)]
            for origin, (name, images) in enumerate(self.ood.items(), start=1):
                try:
                    source = images.read(self.data.image_shape, self.seed)
                except (FileNotFoundError, ValueError) as error:
                    raise type(error)(f"ood.{name}: {error}") from error
                self.sets.append(SetOfOrigin(source, origin))

    def train_dataloader(self) -> DataLoader:
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader | list:
        return self.data.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        return self.data.predict_dataloader()

    def test_dataloader(self) -> list[DataLoader]:
        return [self.data.evaluation_loader(images) for images in self.sets]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """As the data set does, with the brightest value of the batch's own set."""
        if "origin" not in batch:
            return self.data.on_after_batch_transfer(batch, dataloader_idx)
        batch["image"] = self.data.in_unit_interval(batch["image"], self.sets[dataloader_idx].source.brightest)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.data.load_state_dict(state_dict)
