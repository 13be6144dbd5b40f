"""Selected rows of an image source with their given labels, fetched one batch at a time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import UNVERIFIED
from datamodules.classification.image_sets import ImageSource
from datamodules.files.number_tables import read_csv
from datamodules.files.whole_files import write_csv
from datamodules.loading.global_batches import Request
from datamodules.randomness.counter import sample_uniform

if TYPE_CHECKING:
    import pandas as pd

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


def repeated_augmentation(
    random: np.random.Generator, num_samples: int, batch_size: int, repeats: int
) -> np.ndarray[Any, Any]:
    """Sample the order of an epoch in which each selected image occurs with R augmentations in the same batch.

    An epoch has as many samples as without repetition, so it uses only one R-th of the images. The samples of a batch
    are in random order, because CutMix mixes each sample with its neighbour.

    Source: Hoffer, Ben-Nun, Hubara, Giladi, Hoefler and Soudry, Augment Your Batch: Improving Generalization through
    Instance Repetition, CVPR 2020, arXiv 1901.09335.

    Args:
        random: random generator of the epoch.
        num_samples: number N of images.
        batch_size: global batch size. If the augmentations of an image do not fit in one batch, they are divided
            between two batches.
        repeats: number R of augmentations.

    Returns:
        Positions in the order of the epoch, `[N]`: i + c N stands for augmentation c of image i.
    """
    chosen = random.permutation(num_samples)[: -(-num_samples // repeats)]
    order = (chosen[:, None] + num_samples * np.arange(repeats)).ravel()[:num_samples]
    return order[np.lexsort((random.random(num_samples), np.arange(num_samples) // batch_size))]


def stratified_split(label: Tensor, fraction: float, seed: int, stream: int = 1) -> tuple[Tensor, Tensor]:
    """Hold out the same fraction of every class.

    Args:
        label: labels, `[N]`, int64.
        fraction: fraction of each class to hold out, in [0, 1).
        seed: seed of the random choice of held-out rows.
        stream: index of the random stream. Different streams give independent splits.

    Returns:
        The kept rows and the held-out rows, each in ascending order.
    """
    random = np.random.default_rng([seed, stream])
    held_out = np.zeros(len(label), dtype=bool)
    for category in np.unique(label.numpy()):
        rows = np.flatnonzero(label.numpy() == category)
        held_out[random.permutation(rows)[: round(fraction * len(rows))]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def fold_split(label: Tensor, folds: int, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide a set into stratified folds, and hold out one of them.

    Args:
        label: labels, `[N]`, int64.
        folds: number of folds.
        fold: index of the held-out fold, counted from 0.
        seed: seed of the folds.

    Returns:
        The kept rows and the held-out rows, each in ascending order.
    """
    random = np.random.default_rng([seed, 3])
    part = np.empty(len(label), dtype=np.int64)
    begin = 0  # each class starts at a different fold, so that all folds have about the same size despite remainders
    for category in np.unique(label.numpy()):
        rows = random.permutation(np.flatnonzero(label.numpy() == category))
        part[rows] = (begin + np.arange(len(rows))) % folds
        begin += len(rows)
    return torch.from_numpy(np.flatnonzero(part != fold)), torch.from_numpy(np.flatnonzero(part == fold))


def label_table(
    source: ImageSource, given: Tensor, truth: Tensor | None, training: Tensor, tested: Tensor, dropped: Tensor
) -> "pd.DataFrame":
    """Create a table of all labels of a dataset, from which `FromCSV` reproduces the labels in other runs.

    Args:
        source: the N images; they may have file names.
        given: given labels, `[N]`.
        truth: true labels, `[N]`, or None.
        training: rows that are used for training.
        tested: rows that are held out for testing.
        dropped: mask of the samples that are left out of training and validation, `[N]`, bool. If there are such
            samples, the table has a column `action`.
    """
    import pandas as pd

    split = np.where(dropped.numpy(), "dropped", "validation").astype(object)
    split[training.numpy()] = "training"
    split[tested.numpy()] = "test"
    columns: dict[str, Any] = {"index": np.arange(len(split)), "label": given}
    if truth is not None:
        columns["clean_label"] = pd.Series(truth, dtype="Int64").mask(truth.numpy() == UNVERIFIED)
    columns["split"] = split
    if dropped.any():
        columns["action"] = np.where(dropped.numpy(), "drop", "keep")
    if (names := source.names) is not None:
        columns["name"] = names
    return pd.DataFrame(columns)


def keep_labels(path: Path, drawn: "pd.DataFrame", table: str | None, write: bool) -> None:
    """Write the table of given labels to the run directory.

    If the run already has a table, reject given labels that differ from this table.

    Args:
        path: `labels.csv` of the run.
        drawn: table of the given labels, built by `label_table`.
        table: file from which the given labels were read, if any.
        write: whether this rank writes the file if it is missing.

    Raises:
        ValueError: if the run's table has different labels, different files or a different split. The message names the
            first row that differs.
    """
    if not path.is_file():  # later errors are raised on all ranks that see the file, so no rank waits
        if write:
            write_csv(path, drawn)
        return
    kept = read_csv(path, "labels of the run", dtype=str, keep_default_na=False)
    source = "the labels generated now" if table is None else f"the labels in {table}"
    advice = "a run keeps its first labels; use another run directory for other labels"
    if len(kept) != len(drawn):
        raise ValueError(f"{path} and {source} differ in length, {len(kept)} and {len(drawn)}: {advice}")
    for column in ("name", "split", "label"):
        if column in kept and column in drawn:
            now = drawn[column].astype(str)
            differs = np.flatnonzero(kept[column] != now)
            if len(differs):
                row = differs[0]
                raise ValueError(
                    f"{path} and {source} differ in the {column} of {len(differs)} of {len(kept)} samples, first at "
                    f"index {row}: {kept[column][row]} in the first and {now[row]} in the second; {advice}"
                )
