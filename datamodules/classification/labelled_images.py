"""Images with one label each: label noise, validation split, batches and augmentation, the same for every data set.

A data set's own file says where its images come from (an `ImageSource`) and nothing else.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import UNVERIFIED
from datamodules.corruptions.label_noise import FromCSV, LabelNoise
from datamodules.corruptions.seeded import seeded
from datamodules.files.whole_files import whole_file
from datamodules.loading.augmentation import crop_and_flip, sample_uniform
from datamodules.loading.gathered_labels import gathered_labels
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import SeededBatches, check_at_least


class ImageSource(Protocol):
    """Images of one split, wherever they are kept."""

    label: Tensor
    """`[N]`, int64, as the data set gives it."""
    brightest: int
    """The stored value that stands for 1."""
    # A source that knows which of its labels are true also has `clean_label`, `[N]`, int64: the true ones, and -1 for
    # an image of no class. Training batches then carry it. A label noise says which are true of all other sources.
    # One that holds all images has `image_for_noise`, for label noise that depends on them.
    num_uniform: int
    """Random numbers that `fetch` needs for each training image; 0 where all is augmented on the device."""

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Reads images.

        Args:
            row: `[B]`: which ones.
            uniform: `[B, num_uniform]` in [0, 1): places the random crop of a training image; None reads it whole or
                centred.

        Returns:
            `[B, C, H, W]`, uint8 in 0...`brightest`.
        """
        ...


class ImagesInMemory:
    """Images of one size, held as one uint8 tensor `[N, C, H, W]`."""

    num_uniform = 0

    def __init__(self, image: Tensor, label: Tensor, brightest: int = 255) -> None:
        self.image = image
        self.label = label
        self.brightest = brightest

    @property
    def image_for_noise(self) -> Tensor:
        """`[N, C, H, W]`, as label noise takes images: uint8 in 0...255, or float32 in [0, 1]."""
        return self.image if self.brightest == 255 else self.image / self.brightest

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        return self.image.index_select(0, row)


class LabelledSet(Dataset[dict[str, Any]]):
    """Some rows of a source, with the labels they are given. Fetched a request at a time.

    With a `seed` images are augmented: their batches carry the number of the visit that seeds it, until they are on the
    device. Once a label has been corrected, batches carry the given ones as `original_label`.
    """

    def __init__(
        self, source: ImageSource, row: Tensor, label: Tensor, clean_label: Tensor | None, seed: int | None
    ) -> None:
        self.source = source
        self.row = row
        self.given = label
        self.label = label.clone().share_memory_()  # corrections reach the loader's workers
        self.corrected = torch.zeros((), dtype=torch.bool).share_memory_()
        self.clean_label = clean_label
        self.seed = seed

    def __len__(self) -> int:
        return len(self.row)

    def correct(self, index: Tensor, label: Tensor) -> None:
        """Gives the samples `index` other labels."""
        self.label[index] = label
        self.corrected.fill_(True)

    def sharing_labels(self, other: "LabelledSet") -> Self:
        """This set of the same samples, with the labels and corrections of another one, also future ones."""
        self.given, self.label, self.corrected = other.given, other.label, other.corrected
        return self

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index, uniform = request.indices, None
        if self.seed is not None and self.source.num_uniform > 0:
            uniform = sample_uniform(self.seed, request.visit, index, count=self.source.num_uniform, stream=1)
        batch: dict[str, Any] = {
            "image": self.source.fetch(self.row[index], uniform),
            "label": self.label[index],
            "index": index,
            "global_size": request.global_size,
        }
        if self.seed is not None:
            batch["visit"] = request.visit
        if self.corrected:
            batch["original_label"] = self.given[index]
        if self.clean_label is not None:
            batch["clean_label"] = self.clean_label[index]
        return batch


def stratified_split(label: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out the same fraction of every class.

    Args:
        label: `[N]`, int64.
        fraction: of each class, in [0, 1).
        seed: of the choice.

    Returns:
        Rows that are kept and rows that are held out, each in ascending order.
    """
    random = np.random.default_rng([seed, 1])
    held_out = np.zeros(len(label), dtype=bool)
    for category in np.unique(label.numpy()):
        rows = np.flatnonzero(label.numpy() == category)
        held_out[random.permutation(rows)[: round(fraction * len(rows))]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def check_same_labels(path: Path, drawn: pd.DataFrame, table: str | None) -> None:
    """Refuses other training labels than those that a run has kept: it would go on as another run.

    Args:
        path: `labels.csv` of the run, with the columns `label`, `split` and, of files, `name`.
        drawn: the same of the labels that are drawn now.
        table: file that they come from, if they come from one.

    Raises:
        ValueError: names the first row that differs.
    """
    kept = pd.read_csv(path, dtype=str, keep_default_na=False)
    source = "the labels that are drawn now" if table is None else f"those of {table}"
    advice = "a run keeps the labels it began with, and others are for a run in another directory"
    if len(kept) != len(drawn):
        raise ValueError(f"{path} holds {len(kept)} labels, and {source} are {len(drawn)}: {advice}")
    for column in ("name", "split", "label"):
        if column in kept and column in drawn:
            now = drawn[column].astype(str)
            differs = np.flatnonzero(kept[column] != now)
            if len(differs):
                row = differs[0]
                raise ValueError(
                    f"{path} and {source} differ in {column} at {len(differs)} of {len(kept)} samples, first at index "
                    f"{row}, which has {kept[column][row]} there and {now[row]} now: {advice}"
                )


class LabelledImages(SeededBatches):
    """A data set of labelled images. Subclasses read it; everything else happens here.

    `num_classes` and `image_shape` are known at once, `num_train_samples` after `setup("fit")`. The order of training
    samples depends on (seed, epoch) alone, whatever the number of processes, and continues after an interruption inside
    an epoch.

    Training labels can be corrected (`correct_labels`). Batches then carry the corrected label as `label`, and the one
    that was given as `original_label`. Corrections are part of the checkpoint.

    Args:
        batch_size: training images of a step over all processes.
        label_noise: what makes training and validation labels wrong; None leaves them.
        validation_fraction: part of each class that is held out of training, in [0, 1). Its labels are as noisy.
        evaluation_batch_size: images of a validation, test or prediction batch over all processes; None takes
            `batch_size`.
        crop_padding: zeros around a training image before it is cropped back at a random place, in pixels.
        flip: mirror half of the training images.
        passes_per_epoch: times that an epoch visits the training set; methods that train two networks in turn take 2.
        num_workers: loader processes; sets in memory need none, and None takes one for each free core, up to 8.
        prefetch_factor: batches that each loader process reads ahead.
        seed: of split, noise, order and augmentation. On the command line it is `seed_everything` unless it is set.

    Raises:
        ValueError: if an argument is out of range, or the data do not fit it.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: list[str] | None = None
    train_set: LabelledSet | None
    validation_set: LabelledSet | None
    test_set: LabelledSet | None

    def __init__(
        self,
        batch_size: int,
        label_noise: LabelNoise | None = None,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        passes_per_epoch: int = 1,
        num_workers: int | None = 0,
        seed: int | None = None,
        prefetch_factor: int = 2,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, passes_per_epoch, num_workers, prefetch_factor, seed)
        check_at_least(0, crop_padding=crop_padding)
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
        self.label_noise = label_noise
        self.validation_fraction = validation_fraction
        self.crop_padding = crop_padding
        self.flip = flip
        self._corrected: Tensor | None = None

    @abstractmethod
    def read_training(self) -> ImageSource:
        """The training images, before any is held out.

        Raises:
            FileNotFoundError: if they are missing, saying what was expected where.
            ValueError: if a file is damaged, naming it.
        """

    @abstractmethod
    def read_test(self) -> ImageSource:
        """The test images."""

    def read_validation(self) -> ImageSource | None:
        """The validation images of a set that has its own; otherwise they are held out of the training images."""
        return None

    def setup(self, stage: str) -> None:
        unread = self.train_set is None
        super().setup(stage)
        if unread and self.train_set is not None:
            self._keep_labels()

    def set_up_test(self) -> None:
        source = self.read_test()
        self._check_labels(source.label, "test")
        self.test_set = LabelledSet(source, torch.arange(len(source.label)), source.label, source.label, seed=None)

    def set_up_training(self) -> None:
        source = self.read_training()
        clean = source.label
        self._check_labels(clean, "training")
        given, known = clean, getattr(source, "clean_label", None)
        if self.label_noise is not None:
            noise = seeded(self.label_noise, self.seed)
            if isinstance(noise, FromCSV):
                names = getattr(source, "names", None)
                given, known = noise.labels_and_truth(clean, self.num_classes, names, self.class_names, known)
            else:
                given = noise.apply(clean, self.num_classes, getattr(source, "image_for_noise", None))
                known = clean if known is None else known
        self._given, self._truth = given, known
        kept, held_out = stratified_split(clean, self.validation_fraction, self.seed)
        if len(kept) == 0:
            raise ValueError(f"validation_fraction {self.validation_fraction} leaves no training image of {len(clean)}")
        self.train_set = LabelledSet(source, kept, given[kept], None if known is None else known[kept], self.seed)
        if len(held_out):
            self.validation_set = LabelledSet(
                source, held_out, given[held_out], None if known is None else known[held_out], seed=None
            )
        elif (own := self.read_validation()) is not None:
            self._check_labels(own.label, "validation")
            self.validation_set = LabelledSet(own, torch.arange(len(own.label)), own.label, None, seed=None)
        self._restore_corrections()

    def _check_labels(self, label: Tensor, split: str) -> None:
        if len(label) == 0:
            raise ValueError(f"the {split} set is empty")
        lowest, highest = int(label.min()), int(label.max())
        if lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"labels of the {split} set lie in {lowest}...{highest}, and num_classes {self.num_classes} allows "
                f"0...{self.num_classes - 1}"
            )

    def _keep_labels(self) -> None:
        """Keeps the labels that were drawn beside the run's other results, as `labels.csv`.

        Its rows are the whole set as it was read, so that `FromCSV` gives any other run the same labels. A table that
        is there, of a run that goes on or is tested, stays as it is.

        Raises:
            ValueError: if it holds other labels, or another split or files.
        """
        trainer = self.trainer
        if trainer is None or not trainer.loggers:
            return
        directory = trainer.log_dir  # on every process: it is broadcast
        if directory is None or self.label_noise is None or self.train_set is None:
            return
        path = Path(directory, "labels.csv")
        if not (path.is_file() or trainer.is_global_zero):
            return
        split = np.full(len(self._given), "validation", dtype=object)
        split[self.train_set.row.numpy()] = "training"
        columns = {"index": np.arange(len(split)), "label": self._given}
        if self._truth is not None:
            columns["clean_label"] = pd.Series(self._truth, dtype="Int64").mask(self._truth.numpy() == UNVERIFIED)
        columns["split"] = split
        if (names := getattr(self.train_set.source, "names", None)) is not None:
            columns["name"] = names
        drawn = pd.DataFrame(columns)
        if path.is_file():  # every process that sees it refuses, so that none waits for another
            check_same_labels(path, drawn, getattr(self.label_noise, "path", None))
        elif trainer.is_global_zero:
            with whole_file(path) as partial:
                drawn.to_csv(partial, index=False)

    def training_images_dataloader(self) -> DataLoader:
        """The training images in their own order and without augmentation, to judge their labels by."""
        if self.train_set is None:
            self.set_up_training()
            self._keep_labels()
        assert self.train_set is not None
        train = self.train_set
        plain = LabelledSet(train.source, train.row, train.given, train.clean_label, seed=None)
        return self.evaluation_loader(plain.sharing_labels(train))

    def augmented(self, batch: dict[str, Any], visit: int) -> dict[str, Any]:
        """Crops and mirrors training images."""
        if self.crop_padding or self.flip:
            uniform = sample_uniform(self.seed, visit, batch["index"], count=3)
            batch["image"] = crop_and_flip(batch["image"], uniform, self.crop_padding, self.flip)
        return batch

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        """All images in the module's type, in [0, 1]."""
        images = self.train_set or self.test_set
        assert images is not None
        batch["image"] = self.in_unit_interval(batch["image"], images.source.brightest)
        return batch

    def correct_labels(self, index: Tensor, label: Tensor) -> None:
        """Gives training samples other labels, which all processes and their loader workers see in the next epoch.

        Where there are several processes, all of them call this equally often, each with samples of its own, or with
        none (as by the shares of `training_images_dataloader`). They exchange them here.

        Args:
            index: `[n]`, int64: positions in the training set.
            label: `[n]`, int64: their new labels.

        Raises:
            ValueError: if a label is no class.
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
        """Corrected labels, and how far into its epoch the training is."""
        state = super().state_dict()
        if self._corrected is not None:
            state["label"] = self._corrected.clone()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._corrected = state_dict.get("label")
        self._restore_corrections()
