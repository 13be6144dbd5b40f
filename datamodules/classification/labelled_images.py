"""DataModule for images with one label each.

The DataModule adds label noise, a validation split, batches and augmentation to a dataset.

LabelledImages(CIFAR10("~/data"), batch_size=128, augmentation=Augmentation(crop_padding=4, flip=True))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.folder_sets import NewImages
from datamodules.classification.image_sets import ImageSet
from datamodules.classification.labelled_set import SECOND, LabelledSet
from datamodules.classification.selection.epoch_order import EpochOrder
from datamodules.classification.selection.label_table import NoisyLabels, noisy_labels
from datamodules.classification.selection.shifted_tests import check_shifted_tests, shifted_tests, with_checked_labels
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import LabelNoise
from datamodules.files.data_directory import Paths
from datamodules.files.image_files import Crop
from datamodules.loading import Loading
from datamodules.loading.correctable_labels import CorrectableLabels
from datamodules.loading.global_batches import GlobalBatches
from datamodules.loading.node_shards import NodeShards


class LabelledImages(CorrectableLabels):
    """DataModule for a dataset of images with one label each.

    Args:
        images: dataset.
        batch_size: global training batch size, over all ranks.
        label_noise: label noise that corrupts training and validation labels. None leaves these labels unchanged.
        split: which training images are held out for validation and testing.
        augmentation: random crop and flip of training images, applied on the device. None means no augmentation.
        second_view: whether to add a second random augmentation of each image to training batches, as `second_view`.
        predict_dir: folder of images to predict instead of the test set, one file, a list of files and folders, or a
            text file (.txt) with one path per line. Images in a top-level folder with a class's name have its label.
        ood_test_sets: dictionary of further datasets with the same classes. Their test images are shifted test sets.
        batches_per_epoch: number of batches per epoch. In each epoch, the same number of images is sampled for each
            given label. A class with too few images contributes all of its images. None means that each epoch uses all
            training images.
        shards: split of the training images among the nodes of decentralised training. Each batch has equally many
            images per node. None means no split.
        repeats: number R of augmentations of each image in an epoch (repeated augmentation). The number of batches per
            epoch stays the same, so an epoch uses only one R-th of the images. Methods that store a state for each
            sample require 1.
        loading: how batches are read, and the seed.
    """

    train_set: LabelledSet | None
    validation_set: LabelledSet | None
    test_set: LabelledSet | None

    def __init__(
        self,
        images: ImageSet,
        batch_size: int = 128,
        label_noise: LabelNoise | None = None,
        split: Split = Split(),
        augmentation: Augmentation | None = None,
        second_view: bool = False,
        predict_dir: Paths | None = None,
        ood_test_sets: dict[str, ImageSet] | None = None,
        batches_per_epoch: int | None = None,
        shards: NodeShards | None = None,
        repeats: int = 1,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        self.order = EpochOrder(batch_size, batches_per_epoch, repeats)
        if shards is not None:
            shards.check(batch_size)
            if batches_per_epoch is not None or repeats > 1 or loading.passes_per_epoch > 1:
                raise ValueError(
                    "batches_per_epoch, repeats and loading.passes_per_epoch must not be set if shards is set"
                )
        if second_view and images.num_views == 1:
            raise ValueError(f"second_view needs images with at least 2 views, but {type(images).__name__} has 1")
        if augmentation not in (None, Augmentation()) and len(images.image_shape) != 3:
            raise ValueError(f"augmentation requires images, but {type(images).__name__} has none: do not set it")
        self.images = images
        self.label_noise = label_noise
        self.split = split
        self.augmentation = augmentation or Augmentation()
        self.second_view = second_view
        self.predict_dir = predict_dir
        self.ood_test_sets = ood_test_sets or {}
        self.shards = shards
        self.repeats = repeats

    @property
    def adds_label_noise(self) -> bool:
        return self.label_noise is not None

    @property
    def num_classes(self) -> int:
        return self.images.num_classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape C, H, W of the input images of the network."""
        return self.images.image_shape

    @property
    def crop(self) -> Crop | None:
        """How images are resized and cropped; None if they are not."""
        return getattr(self.images, "crop", None)

    @property
    def class_names(self) -> Sequence[str] | None:
        return self.images.class_names

    def prepare_data(self) -> None:
        for images in (self.images, *self.ood_test_sets.values()):
            images.fetch_missing()

    def _prepare(self, images: ImageSet) -> ImageSet:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        return images.prepare(self.seed, device)

    def _further(self) -> dict[str, ImageSet]:
        return {name: self._prepare(images) for name, images in self.ood_test_sets.items()}

    def set_up_test(self) -> None:
        images = self._prepare(self.images)
        if not images.has_test and (self.split.test_fraction or self.split.folds):
            labels = self._training_labels(images)
            _, held_out, tested = self.split.rows(images, labels.source.label, labels.given, self.seed)
            self.test_set = labels.test_set(tested if self.split.test_fraction else held_out)
        else:
            source = with_checked_labels(images.test(), self.num_classes, "test")
            self.test_set = LabelledSet(source, clean_label=source.label)

    def set_up_prediction(self) -> None:
        if self.predict_dir is None:
            super().set_up_prediction()
        else:
            self.predict_set = LabelledSet(NewImages(self.predict_dir, self._prepare(self.images)))

    def _training_labels(self, images: ImageSet) -> NoisyLabels:
        source = with_checked_labels(images.training(), self.num_classes, "training")
        return noisy_labels(source, self.label_noise, self.num_classes, self.class_names, self.seed)

    def set_up_training(self) -> None:
        images = self._prepare(self.images)
        labels = self._training_labels(images)
        kept, held_out, tested = self.split.rows(images, labels.source.label, labels.given, self.seed)
        self.train_set = labels.subset(kept, seed=self.seed, second_view=self.second_view, repeats=self.repeats)
        if len(self.train_set) == 0:
            raise ValueError(f"{getattr(self.label_noise, 'path', None)} drops all of the {len(kept)} training images")
        self.split.report(len(tested), len(labels.given))
        if len(validation := labels.subset(held_out)):
            self.validation_set = validation
        elif (own := images.validation()) is not None:
            self.validation_set = LabelledSet(with_checked_labels(own, self.num_classes, "validation"))
        self.restore_corrections()
        if (directory := self.run_directory()) is not None and self.label_noise is not None:
            noise, writes = self.label_noise, self.processes()[0] == 0
            labels.keep(directory / "labels.csv", self.train_set.row, tested, getattr(noise, "path", None), writes)

    def check_shifted_tests(self) -> None:
        check_shifted_tests(self._prepare(self.images), self._further())

    def shifted_test_loaders(self) -> dict[str, DataLoader]:
        """Return a DataLoader for each shifted test set. Batches contain `classes` if the set lacks some classes."""
        sources = shifted_tests(self._prepare(self.images), self._further()).items()
        return {name: self.evaluation_loader(LabelledSet(one, clean_label=one.label)) for name, one in sources}

    def training_images_dataloader(self) -> DataLoader:
        """Return a DataLoader of the training images for scoring labels: in dataset order and without augmentation."""
        train = self.read_training_set()
        plain = LabelledSet(train.source, train.row, train.given, train.clean_label)
        return self.evaluation_loader(plain.sharing_labels(train))

    def held_out_dataloader(self) -> DataLoader | None:
        """Return a DataLoader of the held-out fold, in dataset order, without augmentation; None without folds."""
        if self.split.folds is None:
            return None
        self.read_training_set()
        return self.evaluation_loader(self.require_sets(self.validation_set, "fit"))

    def training_batches(self, epoch: int, rank: int, world_size: int) -> GlobalBatches:
        if self.shards is None:
            return super().training_batches(epoch, rank, world_size)
        place = {"rank": rank, "world_size": world_size, "epoch": epoch, "resumed": self._resumed}
        given = self.require_sets(self.train_set, "fit").given
        return self.shards.batches(given, self.num_classes, self.batch_size, self.seed, **place)

    def samples_per_epoch(self) -> int:
        return self.order.samples(self.require_sets(self.train_set, "fit").given, self.num_classes)

    def draw_epoch(self, random: np.random.Generator) -> np.ndarray:
        return self.order.draw(random, self.require_sets(self.train_set, "fit").given, self.num_classes)

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        requested = batch.pop("requested", batch["index"])
        for key, number in (("image", epoch), ("second_view", epoch + SECOND)):
            if key in batch:
                batch[key] = self.augmentation.apply(batch[key], self.seed, number, requested)
        return batch

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        data_range = batch.pop("data_range")
        for key in ("image", "second_view"):
            if key in batch:
                batch[key] = self.in_unit_interval(batch[key], data_range)
        return batch

    def checked_correction(self, index: Tensor, label: Tensor) -> Tensor:
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < self.num_classes:
            given = f"{int(label.min())}...{int(label.max())}"
            raise ValueError(f"label must be in 0...{self.num_classes - 1}, got {given}")
        return label

    def write_corrections(self, index: Tensor, label: Tensor) -> None:
        if len(index):
            self.require_sets(self.train_set, "fit").correct(index, label)

    def corrections(self) -> Tensor | None:
        train = self.train_set
        return None if train is None or not train.corrected else train.label.clone()

    def load_corrections(self, saved: Tensor) -> None:
        assert self.train_set is not None
        self.train_set.correct(torch.arange(len(self.train_set)), saved)
