"""DataModule for images with captions.

CaptionedImages(CaptionedFolder("my_images", image_size=512), batch_size=4)
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.arguments import within
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.loading import Loading
from datamodules.loading.global_batches import GlobalBatches
from datamodules.loading.one_size_batches import BucketBatches, OneSizeBatches, check_buckets
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.prompts.captioned_set import CaptionedRows, CaptionedSet, ShuffledTags, captions_of
from datamodules.prompts.image_report import report_images


class CaptionedImages(SeededBatches):
    """DataModule with batches of images and captions (`datamodules.batches.CaptionedImageBatch`).

    The sampling order, crops and flips depend only on (seed, epoch, index), not on the number of ranks. If the dataset
    has aspect-ratio buckets, all images of a batch are in the same bucket, and a batch has at most `batch_size` images.

    Args:
        images: dataset of images with captions.
        batch_size: global training batch size, over all ranks.
        validation_fraction: fraction of the images that are held out of training, in [0, 1).
        augmentation: random crops of padded training images, and random flips. None means no augmentation.
        loading: how batches are read, and the seed.
        prior: images of the subject's class, for prior preservation. A random class image is added to the batch for
            each training image. None means no prior preservation.
        tags: shuffling of the tags of training captions; it needs a run without `model.cache_dir`. None means that
            captions stay as they are.
    """

    train_set: CaptionedRows | None
    validation_set: CaptionedRows | None
    prior_set: CaptionedRows | None = None
    """Class images for prior preservation."""

    def __init__(
        self,
        images: CaptionedSet,
        batch_size: int = 16,
        validation_fraction: float = 0.0,
        augmentation: Augmentation | None = None,
        loading: Loading = Loading(),
        prior: CaptionedSet | None = None,
        tags: ShuffledTags | None = None,
    ) -> None:
        super().__init__(batch_size, loading)
        within(0, 1, "[)", validation_fraction=validation_fraction)
        self.images = images
        self.validation_fraction = validation_fraction
        self.augmentation = augmentation or Augmentation()
        self.prior = prior
        self.tags = tags
        if prior is not None and prior.bucketed:
            raise ValueError("prior must have images of one size: leave data.prior.buckets out")

    def prepare_data(self) -> None:
        for images in (self.images, self.prior):
            if images is not None:
                images.fetch_missing()

    @property
    def bucketed(self) -> bool:
        """Whether the images of different batches may have different sizes."""
        return self.images.bucketed

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape C, H, W of an image, or T, C, H, W of a clip."""
        return self.images.image_shape

    def require_captions(self, needed_by: str) -> None:
        """Check that the images have captions, without decoding any image.

        Args:
            needed_by: name of the method or option that needs captions, for the error message.

        Raises:
            FileNotFoundError: if images or captions are missing.
            ValueError: if there are no captions, if captions and images do not match, or if a file is not an image.
        """
        sets: list[Any] = [each for each in (self.train_set, self.validation_set, self.test_set) if each is not None]
        has = sets[0].captioned.captions is not None if sets else self.images.has_captions()
        if not has:
            captions_of({}, needed_by)

    def set_up_training(self) -> None:
        captioned = self.images.training()
        images = len(captioned.source.label)
        number = np.arange(images) if captioned.number is None else captioned.number
        count = int(number.max(initial=-1)) + 1
        order = np.random.default_rng([self.seed, 1]).permutation(count)
        held_out = round(self.validation_fraction * count)
        if held_out == count:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} leaves none of {count} images for training"
            )
        if self.augmentation.crop_padding and self.bucketed:
            raise ValueError("augmentation.crop_padding does not work with buckets: set data.images.resize for crops")
        chosen = np.isin(number, order[:held_out])
        kept, held = (torch.from_numpy(np.flatnonzero(part)) for part in (~chosen, chosen))
        self.train_set = CaptionedRows(captioned, captioned.repeat(kept), self.seed, self.augmentation.flip, self.tags)
        self.validation_set = CaptionedRows(captioned, held) if len(held) else None
        if self.prior is not None:
            prior = self.prior.training()
            every = prior.repeat(torch.arange(len(prior.source.label)))
            self.prior_set = CaptionedRows(prior, every, self.seed, self.augmentation.flip)
            self.train_set.prior = self.prior_set

    def set_up_test(self) -> None:
        """Test on the held-out validation images."""
        if self.train_set is None and self.validation_set is None:
            self.set_up_training()
        if self.validation_set is None:
            assert self.train_set is not None
            count = len(self.train_set)
            raise ValueError(
                f"test needs images that are held out of training, but validation_fraction {self.validation_fraction} "
                f"holds out none of {count}: train with data.validation_fraction of at least {1 / count:.2g}"
            )
        self.test_set = self.validation_set

    def training_images_dataloader(self) -> DataLoader:
        """Return the training images in dataset order, centre-cropped and not flipped."""
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        return self.evaluation_loader(CaptionedRows(self.train_set.captioned, self.train_set.row.unique()))

    def training_batches(self, epoch: int, rank: int, world_size: int) -> GlobalBatches:
        assert self.train_set is not None
        bucket = self.train_set.bucket
        if bucket is None:
            return super().training_batches(epoch, rank, world_size)
        names = self.bucket_names(self.train_set)
        return BucketBatches(bucket, self.batch_size, names, rank, world_size, self.seed, epoch, self._resumed)

    def draw_epoch(self, random: np.random.Generator) -> np.ndarray:
        assert self.train_set is not None
        return self.train_set.draw(random)

    def evaluation_loader(self, samples: Any) -> DataLoader:
        bucket = samples.bucket
        if bucket is None:
            return super().evaluation_loader(samples)
        sizes = [samples.captioned.source.bucket_sizes[number] for number in bucket]
        return self._loader(samples, OneSizeBatches(sizes, self.evaluation_batch_size, *self.processes()))  # type: ignore[arg-type]

    @staticmethod
    def bucket_names(samples: CaptionedRows) -> list[str]:
        """Names of the buckets, in the form `width x height`."""
        source: Any = samples.captioned.source
        return [f"{width} x {height}" for height, width in source.bucket_sizes]

    def check_ranks(self, world_size: int) -> None:
        """Check that each bucket has at least one training image per rank, before the model is built."""
        if not self.bucketed or world_size == 1:
            return
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        bucket = self.train_set.bucket
        assert bucket is not None
        check_buckets(bucket, self.bucket_names(self.train_set), world_size)

    def _members(self) -> dict[str, CaptionedSet]:
        """Return all datasets, class images included, by their keys in a configuration."""
        prior = {} if self.prior is None else self.prior.members("data.prior")
        return self.images.members("data.images") | prior

    def check_frames(self, multiple: int | None, needed_by: str) -> None:
        """Check that all samples are images, or clips of suitable lengths; see `CaptionedSet.check_frames`."""
        for key, images in self._members().items():
            images.check_frames(multiple, needed_by, key)

    def check_sizes(self, multiple: int) -> None:
        """Check that the height and width of every image are multiples of `multiple` pixels."""
        for key, images in self._members().items():
            if images.buckets is not None and images.buckets.multiple % multiple:
                raise ValueError(
                    f"buckets.multiple is {images.buckets.multiple}, but height and width must be multiples of "
                    f"{multiple}: change {key}.buckets.multiple"
                )
            *_, height, width = images.image_shape
            if height % multiple or width % multiple:
                raise ValueError(
                    f"the data have images of {height} x {width} pixels, but height and width must be multiples of "
                    f"{multiple}: change {key}.image_size"
                )

    def describe(self) -> list[list[str]]:
        """Describe the training images, which `setup` has read, by `report_images`."""
        assert self.train_set is not None
        return report_images(self.train_set)

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        for key in ("image", "loss_mask", "condition"):
            if key in batch:
                batch[key] = self.augmentation.apply(batch[key], self.seed, epoch, batch["index"])
        if "prior" in batch:
            batch["prior"] = self.augment(batch["prior"], batch["prior"].pop("epoch"))
        return batch

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "image" in batch:
            data_range = batch.pop("data_range")
            batch["image"] = self.in_unit_interval(batch["image"], data_range)
            for key in {"loss_mask", "condition"} & batch.keys():
                batch[key] = self.in_unit_interval(batch[key], 255)
        if "prior" in batch:
            batch["prior"] = self.finish(batch["prior"])
        return batch
