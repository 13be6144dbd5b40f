"""DataModule for images with captions.

CaptionedImages(CaptionedFolder("my_images", image_size=512), batch_size=4)
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.arguments import within
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.prompts.captioned_set import CaptionedRows, CaptionedSet, captions_of


class CaptionedImages(SeededBatches):
    """Batches of images with captions (`datamodules.batches.CaptionedImageBatch`).

    The order, the crops and the flips depend only on (seed, epoch, index), not on the number of ranks.

    Args:
        images: dataset.
        batch_size: global training batch size, over all ranks.
        validation_fraction: fraction of the images to hold out of training, in [0, 1).
        augmentation: random crop and flip of padded training images. None means no augmentation.
        evaluation_batch_size: global batch size in validation and testing. None means `batch_size`.
        num_workers: number of DataLoader workers. None means one per free core, at most 8, and 0 for images in memory.
        seed: seed of the split, the batch order and the augmentation. None means the value of `seed_everything`.
    """

    train_set: CaptionedRows | None
    validation_set: CaptionedRows | None

    def __init__(
        self,
        images: CaptionedSet,
        batch_size: int = 16,
        validation_fraction: float = 0.0,
        augmentation: Augmentation | None = None,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, num_workers=num_workers, seed=seed)
        within(0, 1, "[)", validation_fraction=validation_fraction)
        self.images = images
        self.validation_fraction = validation_fraction
        self.augmentation = augmentation or Augmentation()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape C, H, W of an image."""
        return self.images.image_shape

    def require_captions(self, needed_by: str) -> None:
        """Check that the images have captions, without reading an image.

        Args:
            needed_by: name of what needs the captions, for the error message.

        Raises:
            ValueError: if there are no captions.
        """
        sets: list[Any] = [each for each in (self.train_set, self.validation_set, self.test_set) if each is not None]
        has = sets[0].captioned.captions is not None if sets else self.images.has_captions()  # read once, if set up
        if not has:
            captions_of({}, needed_by)

    def set_up_training(self) -> None:
        captioned = self.images.training()
        count = len(captioned.source.label)
        order = np.random.default_rng([self.seed, 1]).permutation(count)
        held_out = round(self.validation_fraction * count)
        if held_out == count:
            raise ValueError(f"validation_fraction {self.validation_fraction} leaves no training image of {count}")
        kept, held = (torch.from_numpy(np.sort(part)) for part in (order[held_out:], order[:held_out]))
        self.train_set = CaptionedRows(captioned, kept, self.seed)
        self.validation_set = CaptionedRows(captioned, held) if len(held) else None

    def set_up_test(self) -> None:
        """Test on the held-out validation images."""
        if self.train_set is None and self.validation_set is None:
            self.set_up_training()
        if self.validation_set is None:
            raise ValueError("test needs images that are held out of training: set data.validation_fraction above 0")
        self.test_set = self.validation_set

    def training_images_dataloader(self) -> DataLoader:
        """Return the training images in dataset order, centre-cropped and not flipped."""
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        return self.evaluation_loader(CaptionedRows(self.train_set.captioned, self.train_set.row))

    def augmented(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        batch["image"] = self.augmentation.apply(batch["image"], self.seed, epoch, batch["index"])
        return batch

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "image" in batch:
            batch["image"] = self.in_unit_interval(batch["image"], batch.pop("data_range"))
        return batch
