"""DataModule for images with one label each.

The DataModule adds label noise, a validation split, batches and augmentation to a dataset.

LabelledImages(CIFAR10("~/data"), batch_size=128, augmentation=Augmentation(crop_padding=4, flip=True))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.arguments import at_least, within
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.folder_sets import NewImages
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.classification.labelled_set import (
    SECOND,
    LabelledSet,
    fold_split,
    keep_labels,
    label_table,
    repeated_augmentation,
    stratified_split,
)
from datamodules.corruptions.label_noise import FromCSV, LabelNoise
from datamodules.corruptions.seeded import seeded
from datamodules.files.image_files import Crop
from datamodules.loading.gathered_labels import gathered_labels
from datamodules.loading.global_batches import GlobalBatches
from datamodules.loading.node_shards import NodeBatches, NodeShards
from datamodules.loading.seeded_batches import SeededBatches


class LabelledImages(SeededBatches):
    """DataModule for a dataset of images with one label each.

    `num_classes` and `image_shape` are available immediately, and `num_train_samples` after `setup("fit")`. The order
    of training samples depends on (seed, epoch) and not on the number of ranks. A run that is resumed within an epoch
    continues this epoch at the next batch.

    `correct_labels` changes training labels. Afterwards, batches contain the corrected label as `label` and the label
    before any correction as `original_label`. Corrections are saved in the checkpoint.

    Args:
        images: dataset.
        batch_size: global training batch size, over all ranks.
        label_noise: label noise that corrupts training and validation labels. None leaves these labels unchanged.
        validation_fraction: fraction of each class to hold out of the training images for validation, in [0, 1). Label
            noise also corrupts the validation labels. None holds out one tenth if the dataset has no validation images.
        test_fraction: fraction of each class to hold out of the training images for testing, in [0, 1), if the dataset
            has no test images. If true labels are unknown, testing uses the given labels, which are as noisy as the
            training labels.
        folds: number of folds of the training images. One fold is held out for validation.
            `callbacks.labels.LabelReport` scores the labels of this fold. None means no folds.
        fold: index of the held-out fold, in 0 ... `folds` - 1.
        augmentation: random crop and flip of training images, applied on the device. None means no augmentation.
        second_view: whether to add a second random augmentation of each image to training batches, as `second_view`.
        predict_dir: folder from which `predict` reads images instead of the test set, including its subfolders. If a
            top-level subfolder has the name of a class, its images have the label of this class.
        ood_test_sets: dictionary of further datasets with the same classes. Their test images are shifted test sets.
        batches_per_epoch: number of batches per epoch. In each epoch, the same number of images is sampled for each
            given label. A class with too few images contributes all of its images. None means that each epoch uses all
            training images.
        evaluation_batch_size: global batch size in validation, testing and prediction. None means `batch_size`.
        shards: split of the training images among the nodes of decentralised training. Each batch has equally many
            images per node. None means no split.
        passes_per_epoch: number of passes over the training set per epoch. Methods that train two networks in turn use
            2.
        repeats: number R of augmentations of each image in an epoch (repeated augmentation). The number of batches per
            epoch stays the same, so an epoch uses only one R-th of the images. Methods that store a state for each
            sample require 1.
        num_workers: number of DataLoader workers. None means 0 for images in memory, and otherwise one per free core,
            at most 8.
        prefetch_factor: number of batches that each worker prefetches.
        seed: random seed of the split, the noise, the order and the augmentation. None means the value of
            `seed_everything`.
    """

    train_set: LabelledSet | None
    validation_set: LabelledSet | None
    test_set: LabelledSet | None

    def __init__(
        self,
        images: ImageSet,
        batch_size: int = 128,
        label_noise: LabelNoise | None = None,
        validation_fraction: float | None = 0.0,
        test_fraction: float = 0.0,
        folds: int | None = None,
        fold: int = 0,
        augmentation: Augmentation | None = None,
        second_view: bool = False,
        predict_dir: str | None = None,
        ood_test_sets: dict[str, ImageSet] | None = None,
        batches_per_epoch: int | None = None,
        shards: NodeShards | None = None,
        evaluation_batch_size: int | None = None,
        passes_per_epoch: int = 1,
        repeats: int = 1,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, passes_per_epoch, num_workers, prefetch_factor, seed)
        within(0, 1, "[)", validation_fraction=validation_fraction, test_fraction=test_fraction)
        at_least(1, batches_per_epoch=batches_per_epoch, repeats=repeats)
        at_least(2, folds=folds)
        if not 0 <= fold < (folds or 1):
            raise ValueError(f"fold must be in 0 ... folds - 1 (folds is {folds}), got {fold}")
        if folds is not None and validation_fraction:
            raise ValueError(
                f"validation_fraction must be 0 if folds is set, because a fold is held out; got {validation_fraction} "
                f"with folds {folds}"
            )
        if shards is not None:
            shards.check(batch_size)
            if batches_per_epoch is not None or passes_per_epoch > 1:
                raise ValueError(
                    "batches_per_epoch and passes_per_epoch must not be set if shards is set, because it sets both"
                )
        if repeats > 1 and (shards is not None or batches_per_epoch is not None):
            raise ValueError(f"repeats must be 1 if shards or batches_per_epoch is set, got {repeats}")
        if second_view and images.num_views == 1:
            raise ValueError(f"second_view needs images with at least 2 views, but {type(images).__name__} has 1")
        if augmentation not in (None, Augmentation()) and len(images.image_shape) != 3:
            raise ValueError(f"augmentation requires images, but {type(images).__name__} has none: do not set it")
        self.images = images
        self.label_noise = label_noise
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.folds = folds
        self.fold = fold
        self.augmentation = augmentation or Augmentation()
        self.second_view = second_view
        self.predict_dir = predict_dir
        self.ood_test_sets = ood_test_sets or {}
        self.batches_per_epoch = batches_per_epoch
        self.shards = shards
        self.repeats = repeats
        self._corrected: Tensor | None = None

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

    # reading

    def _prepared(self, images: ImageSet) -> ImageSet:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        return images.prepared(self.seed, device)

    def set_up_test(self) -> None:
        images = self._prepared(self.images)
        if self.test_fraction and not images.has_test:
            source, given, known = self._training_labels(images)
            row = self._split(images, source, given)[2]
            true = given[row] if known is None else torch.where(known[row] >= 0, known[row], given[row])
            self.test_set = LabelledSet(source, row, true, true)
        else:
            source = self._checked(images.test(), "test")
            self.test_set = LabelledSet(source, clean_label=source.label)

    def set_up_prediction(self) -> None:
        if self.predict_dir is None:
            super().set_up_prediction()
        else:
            self.predict_set = LabelledSet(NewImages(self.predict_dir, self._prepared(self.images)))

    def _training_labels(self, images: ImageSet) -> tuple[ImageSource, Tensor, Tensor | None]:
        """Read the training images before any split, with given labels and, if known, true labels."""
        source = self._checked(images.training(), "training")
        clean = source.label
        given, known = clean, source.clean_label
        if self.label_noise is not None:
            noise = seeded(self.label_noise, self.seed)
            if isinstance(noise, FromCSV):
                given, known = noise.labels_and_truth(clean, self.num_classes, source.names, self.class_names, known)
            else:
                given = noise.apply(clean, self.num_classes, source.image_for_noise)
                known = clean if known is None else known
        return source, given, known

    def _split(self, images: ImageSet, source: ImageSource, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the training, validation and test rows; the choice depends only on the seed and the labels."""
        rest, tested = torch.arange(len(given)), torch.arange(0)
        if self.test_fraction and not images.has_test:
            rest, tested = stratified_split(source.label, self.test_fraction, self.seed, stream=4)
        if self.folds is not None:
            kept, held_out = fold_split(given[rest], self.folds, self.fold, self.seed)
        else:
            fraction = self.validation_fraction
            if fraction is None:
                fraction = 0.1 if images.validation() is None else 0.0
            kept, held_out = stratified_split(source.label[rest], fraction, self.seed)
        if len(kept) == 0:
            raise ValueError(f"validation_fraction {self.validation_fraction} leaves 0 of {len(rest)} training images")
        return rest[kept], rest[held_out], tested

    def set_up_training(self) -> None:
        images = self._prepared(self.images)
        source, given, known = self._training_labels(images)
        kept, held_out, tested = self._split(images, source, given)
        dropped = torch.zeros(len(given), dtype=torch.bool)
        if isinstance(self.label_noise, FromCSV):
            dropped = self.label_noise.dropped(len(given), source.names)
            if dropped[kept].all():
                raise ValueError(f"{self.label_noise.path} drops all of the {len(kept)} training images")
        kept, held_out = kept[~dropped[kept]], held_out[~dropped[held_out]]
        if len(tested):
            rank_zero_info(
                f"There are no test images: {len(tested)} of the {len(given)} training images (data.test_fraction "
                f"{self.test_fraction} of each class) are held out for testing; their labels may be wrong, too"
            )

        def part(row: Tensor, **options: Any) -> LabelledSet:
            return LabelledSet(source, row, given[row], None if known is None else known[row], **options)

        self.train_set = part(kept, seed=self.seed, second_view=self.second_view, repeats=self.repeats)
        if len(held_out):
            self.validation_set = part(held_out)
        elif (own := images.validation()) is not None:
            self.validation_set = LabelledSet(self._checked(own, "validation"))
        self._restore_corrections()
        self._keep_labels(given, known, tested, dropped)

    def _checked(self, source: ImageSource, split: str) -> ImageSource:
        self._check_labels(source.label, split)
        return source

    def _check_labels(self, label: Tensor, split: str) -> None:
        if len(label) == 0:
            raise ValueError(f"the {split} set is empty")
        lowest, highest = int(label.min()), int(label.max())
        if lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"labels of the {split} set are in {lowest}...{highest}, but num_classes {self.num_classes} allows "
                f"only 0...{self.num_classes - 1}"
            )

    def _keep_labels(self, given: Tensor, truth: Tensor | None, tested: Tensor, dropped: Tensor) -> None:
        """Save the given labels as `labels.csv` in the directory of the run.

        The existing table of a resumed or tested run is not changed.

        Raises:
            ValueError: if the existing table has different labels, different files or a different split.
        """
        trainer = self.trainer
        if trainer is None or not trainer.loggers:
            return
        directory = trainer.log_dir  # on every rank, because `log_dir` broadcasts
        if directory is None or self.label_noise is None or self.train_set is None:
            return
        path = Path(directory, "labels.csv")
        if path.is_file() or trainer.is_global_zero:
            drawn = label_table(self.train_set.source, given, truth, self.train_set.row, tested, dropped)
            keep_labels(path, drawn, getattr(self.label_noise, "path", None), trainer.is_global_zero)

    def check_shifted_tests(self) -> None:
        """Check the lists, folders and labels of all shifted test sets, to report missing data before training.

        Raises:
            FileNotFoundError: if a shifted test set is missing. The message names the expected path.
            ValueError: if there are no shifted test sets, or one of them is damaged, has invalid labels or has images
                of a different shape.
        """
        labels = self._prepared(self.images).shifted_labels()
        labels |= {name: self._prepared(images).test().label for name, images in self.ood_test_sets.items()}
        if not labels:
            raise ValueError(f"{type(self.images).__name__} has no shifted test set")
        for name, label in labels.items():
            self._check_labels(label, name)
        for name, images in self.ood_test_sets.items():
            if tuple(images.image_shape) != tuple(self.image_shape):
                raise ValueError(
                    f"ood_test_sets.{name} has images {list(images.image_shape)}, but training images are "
                    f"{list(self.image_shape)}"
                )

    def shifted_test_loaders(self) -> dict[str, DataLoader]:
        """Return a DataLoader for each shifted test set.

        Batches contain `classes` if the set lacks some classes.
        """
        sources = self._prepared(self.images).ood_test_sets()
        sources |= {name: self._prepared(images).test() for name, images in self.ood_test_sets.items()}
        return {
            name: self.evaluation_loader(LabelledSet(self._checked(source, name), clean_label=source.label))
            for name, source in sources.items()
        }

    def training_images_dataloader(self) -> DataLoader:
        """Return a DataLoader of the training images for scoring labels: in dataset order and without augmentation."""
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        train = self.train_set
        plain = LabelledSet(train.source, train.row, train.given, train.clean_label)
        return self.evaluation_loader(plain.sharing_labels(train))

    def held_out_dataloader(self) -> DataLoader | None:
        """Return a DataLoader of the held-out fold, in dataset order, without augmentation; None if `folds` is None."""
        if self.folds is None:
            return None
        if self.validation_set is None:
            self.set_up_training()
        assert self.validation_set is not None
        return self.evaluation_loader(self.validation_set)

    # batches

    def _images_per_class(self) -> np.ndarray:
        """Return the number of images of each class, `[num_classes]`, in one pass over the training set."""
        assert self.train_set is not None
        available = np.bincount(self.train_set.given.numpy(), minlength=self.num_classes)
        if self.batches_per_epoch is None:
            return available
        share, rest = divmod(self.batches_per_epoch * self.batch_size, self.num_classes)
        return np.minimum(available, share + (np.arange(self.num_classes) < rest))

    def training_batches(self, epoch: int, rank: int, world_size: int) -> GlobalBatches:
        if self.shards is None:
            return super().training_batches(epoch, rank, world_size)
        assert self.train_set is not None
        shards = self.shards.draw(self.train_set.given, self.num_classes, self.seed)
        own, order = self.shards, (rank, world_size, self.seed, epoch, self._resumed)
        return NodeBatches(shards, self.batch_size, own.batches_per_epoch, own.growing, *order)

    def samples_per_epoch(self) -> int:
        return super().samples_per_epoch() if self.batches_per_epoch is None else int(self._images_per_class().sum())

    def draw_epoch(self, random: np.random.Generator) -> np.ndarray:
        if self.repeats > 1:
            return repeated_augmentation(random, self.num_train_samples, self.batch_size, self.repeats)
        if self.batches_per_epoch is None:
            return super().draw_epoch(random)
        assert self.train_set is not None
        given = self.train_set.given.numpy()
        chosen = [
            random.permutation(np.flatnonzero(given == category))[:count]
            for category, count in enumerate(self._images_per_class())
        ]
        return random.permutation(np.concatenate(chosen))

    def augmented(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Crop and flip training images."""
        requested = batch.pop("requested", batch["index"])
        for key, number in (("image", epoch), ("second_view", epoch + SECOND)):
            if key in batch:
                batch[key] = self.augmentation.apply(batch[key], self.seed, number, requested)
        return batch

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert all images to the dtype of the module, with values in [0, 1]."""
        data_range = batch.pop("data_range")
        for key in ("image", "second_view"):
            if key in batch:
                batch[key] = self.in_unit_interval(batch[key], data_range)
        return batch

    # corrected labels

    def correct_labels(self, index: Tensor, label: Tensor) -> None:
        """Change labels of training samples.

        The new labels take effect in the next epoch, on all ranks and workers.

        All ranks must call this method the same number of times. Each rank passes its own samples, such as its shard of
        `training_images_dataloader`, or no samples. Corrections are gathered from all ranks.

        Args:
            index: positions in the training set, `[n]`, int64.
            label: new labels, `[n]`, int64.

        Raises:
            ValueError: if a label is out of range.
        """
        assert self.train_set is not None
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < self.num_classes:
            raise ValueError(
                f"label must be in 0...{self.num_classes - 1}, got {int(label.min())}...{int(label.max())}"
            )
        device = self.trainer.strategy.root_device if self.trainer is not None else label.device
        index, label = gathered_labels(index, label, device)
        if len(index):
            self.train_set.correct(index, label)
            self._corrected = self.train_set.label

    def _restore_corrections(self) -> None:
        if self._corrected is not None and self.train_set is not None:
            self.train_set.correct(torch.arange(len(self.train_set)), self._corrected)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the corrected labels, and the position within the epoch."""
        state = super().state_dict()
        if self._corrected is not None:
            state["label"] = self._corrected.clone()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._corrected = state_dict.get("label")
        self._restore_corrections()
