"""Given labels of a training set, and the table `labels.csv` in the run directory that keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import UNVERIFIED
from datamodules.classification.image_sets import ImageSource
from datamodules.classification.labelled_set import LabelledSet
from datamodules.corruptions.label_noise import FromCSV, LabelNoise
from datamodules.corruptions.seeded import with_seed
from datamodules.files.number_tables import read_table
from datamodules.files.whole_files import write_csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NoisyLabels:
    """Training images before any split, with their labels after label noise."""

    source: ImageSource
    given: Tensor
    """Given labels, `[N]`."""
    truth: Tensor | None
    """True labels, `[N]`, or None if they are unknown."""
    dropped: Tensor
    """Boolean tensor `[N]`: whether each image is left out of training and validation."""

    def subset(self, row: Tensor, **options: Any) -> LabelledSet:
        """Return the images `row` that are not dropped; `options` are arguments of `LabelledSet`."""
        row = row[~self.dropped[row]]
        return LabelledSet(
            self.source, row, self.given[row], None if self.truth is None else self.truth[row], **options
        )

    def test_set(self, row: Tensor) -> LabelledSet:
        """Return images that are held out for testing, with their true labels, or the given labels where unknown."""
        label = self.given[row]
        if self.truth is not None:
            label = torch.where(self.truth[row] >= 0, self.truth[row], label)
        return LabelledSet(self.source, row, label, label)

    def keep(self, path: Path, training: Tensor, tested: Tensor, table: str | None, write: bool) -> None:
        """Write the labels to `labels.csv` of a run, or compare them with the existing file; see `keep_labels`."""
        if write or path.is_file():
            keep_labels(path, label_table(self, training, tested), table, write)


def noisy_labels(
    source: ImageSource, label_noise: LabelNoise | None, num_classes: int, class_names: Sequence[str] | None, seed: int
) -> NoisyLabels:
    """Corrupt the labels of a source by label noise, or leave them unchanged if it is None."""
    given, truth, dropped = source.label, source.clean_label, torch.zeros(len(source.label), dtype=torch.bool)
    if label_noise is None:
        return NoisyLabels(source, given, truth, dropped)
    noise = with_seed(label_noise, seed)
    if isinstance(noise, FromCSV):
        given, truth = noise.labels_and_truth(given, num_classes, source.names, class_names, truth)
        return NoisyLabels(source, given, truth, noise.dropped_mask(len(given), source.names))
    truth = given if truth is None else truth
    return NoisyLabels(source, noise.apply(given, num_classes, source.image_for_noise), truth, dropped)


def label_table(labels: NoisyLabels, training: Tensor, tested: Tensor) -> "pd.DataFrame":
    """Create a table of all labels of a dataset, from which `FromCSV` reproduces the labels in other runs.

    Args:
        labels: labels of all N images, which may have file names. If images are dropped, the table has a column
            `action`.
        training: rows that are used for training.
        tested: rows that are held out for testing.
    """
    import pandas as pd

    dropped = labels.dropped.numpy()
    split = np.where(dropped, "dropped", "validation").astype(object)
    split[training.numpy()] = "training"
    split[tested.numpy()] = "test"
    columns: dict[str, Any] = {"index": np.arange(len(split)), "label": labels.given}
    if (truth := labels.truth) is not None:
        columns["clean_label"] = pd.Series(truth, dtype="Int64").mask(truth.numpy() == UNVERIFIED)
    columns["split"] = split
    if dropped.any():
        columns["action"] = np.where(dropped, "drop", "keep")
    if (names := labels.source.names) is not None:
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
    kept = read_table(path, "labels of the run", dtype=str, keep_default_na=False)
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
