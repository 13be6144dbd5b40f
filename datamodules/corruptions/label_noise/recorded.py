"""Recorded labels: human annotations of CIFAR, and label tables written by the user."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import UNVERIFIED
from datamodules.corruptions.label_noise.interface import checked_labels, empirical_transition_matrix
from datamodules.corruptions.label_noise.label_csv import LabelTable
from datamodules.files.array_pickle import read_torch_arrays

ACTIONS = ("keep", "relabel", "drop")
"""Possible values of the column `action` of a cleaned table."""
AnnotationKind = Literal["aggre_label", "worse_label", "random_label1", "random_label2", "random_label3", "noisy_label"]


class HumanCIFARN:
    """The human annotations of CIFAR-10N and CIFAR-100N.

    The files contain labels of the whole training set before any split, in the order of the Python version of CIFAR,
    which torchvision reads. The TensorFlow and Hugging Face versions of CIFAR have a different order. They are
    rejected, because their labels do not match the clean labels in the annotation file.

    Source: Wei et al., Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations, ICLR 2022,
    arXiv 2110.12088; the files `CIFAR-10_human.pt` and `CIFAR-100_human.pt` of github.com/UCSC-REAL/cifar-10-100n.

    Args:
        path: annotation file.
        kind: the label to use. CIFAR-10N has five sets of labels. `aggre_label` is the majority of three annotators,
            with 9.0 % wrong labels. `random_label1`, `random_label2` and `random_label3` are the labels of one
            annotator each, with 17.2, 18.1 and 17.6 % wrong labels. `worse_label` is wrong wherever at least one of the
            three annotators was wrong, with 40.2 % wrong labels. CIFAR-100N has only `noisy_label` (40.2 % wrong).
    """

    seed: int | None = None

    def __init__(self, path: str, kind: AnnotationKind) -> None:
        if kind not in get_args(AnnotationKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(AnnotationKind))}, got {kind}")
        self.path = os.path.expanduser(path)
        self.kind = kind

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        clean, given = self._read(num_classes)
        check_order(self.path, clean, checked_labels(label, num_classes))
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Return the transition matrix from the clean labels to the noisy labels in the file."""
        return empirical_transition_matrix(*self._read(num_classes), num_classes)

    def _read(self, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        if not Path(self.path).is_file():
            raise FileNotFoundError(
                f"{self.path} was not found: expected CIFAR-10_human.pt or CIFAR-100_human.pt of "
                "https://github.com/UCSC-REAL/cifar-10-100n (folder data)"
            )
        labels = load_arrays(self.path)
        for key in ("clean_label", self.kind):
            if key not in labels:
                raise ValueError(f"{self.path} has no key {key}; its keys are {', '.join(labels)}")
        return (
            checked_labels(np.asarray(labels["clean_label"]), num_classes, f"clean_label of {self.path}"),
            checked_labels(np.asarray(labels[self.kind]), num_classes, f"{self.kind} of {self.path}"),
        )


class FromCSV:
    """Labels from a CSV table.

    Each row of the table contains an identifier of a sample and its label. The columns `clean_label` and `action` are
    optional.

    Labels are class numbers, 0 ... K - 1, or class names; a number with leading zeros counts as a name. Columns that
    are not described here are ignored.

    The column `clean_label` contains true labels, which are used only for metrics. The value is -1 for
    out-of-distribution images, and empty for images whose label has not been verified. In a table with file names, true
    labels may differ from the labels of the folders. In a table without file names, true labels must equal the labels
    of the dataset. This requirement ensures that the table lists the samples of this dataset, in the same order.
    Without `clean_label`, true labels count as unknown: the dataset's own labels are not used as true labels, because
    the table may be a correction of them.

    The table may have a column `action`, like the file `cleaned_labels.csv` of a label report. Samples with the action
    `drop` are excluded from training and validation, but not from testing. Samples with the action `keep` or `relabel`
    get the label from the column that the argument `column` names. To train on a cleaned table, set `path` and
    `classes: number`. Also set `partial: true` if the report does not cover all images.

    To use the labels that `label_report.csv` of an earlier run proposes, set `column: proposed` and `key: row`. For
    image files, set `key: name` instead. If images were held out in the earlier run, also set `partial: true`. Do not
    use the column `index` of the report, because it contains positions in the training split only.

    Args:
        path: CSV file with a header, in UTF-8.
        column: name of the column that contains the labels.
        key: column that identifies a sample. `index` and `row` are positions in the whole dataset before any split.
            `name` is the file name, as in `labels.csv`. None means `index`, or `name` in a table without `index`. If a
            table that identifies samples by position also contains file names, these names must match those of the
            dataset.
        partial: whether samples may be missing from the table. Samples that are missing keep the label that they have
            in the dataset.
        classes: how the table specifies classes: `number` or `name`. None selects the interpretation that fits the
            whole column. If both interpretations fit but give different classes, the table is rejected. This can happen
            if the class folders have numbers as names, such as 1 ... 12. A column whose name ends in `_name`, as in a
            label report, always contains names.
    """

    seed: int | None = None

    def __init__(
        self,
        path: str,
        column: str = "label",
        key: Literal["index", "row", "name"] | None = None,
        partial: bool = False,
        classes: Literal["number", "name"] | None = None,
    ) -> None:
        self.path = os.path.expanduser(path)
        self.column = column
        self.key = key
        self.partial = partial
        self.classes = classes

    def apply(
        self,
        label: np.ndarray | Tensor,
        num_classes: int,
        image: Tensor | None = None,
        names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the given labels, as defined by `LabelNoise.apply`.

        For the additional arguments, see `labels_and_truth`.
        """
        return self.labels_and_truth(label, num_classes, names, class_names)[0]

    def labels_and_truth(
        self,
        label: np.ndarray | Tensor,
        num_classes: int,
        names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        clean_label: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the given labels, like `apply`, and the true labels.

        Args:
            label: labels of the dataset, `[N]`. The argument is not modified.
            num_classes: number of classes, K.
            names: file names of the samples, `[N]`, for tables that identify samples by name.
            class_names: names of the classes, `[num_classes]`, for tables that specify classes by name.
            clean_label: true labels, `[N]`, if the dataset has true labels in addition to its labels. True labels are
                -1 for out-of-distribution images. For such an image, a table that identifies samples by position may
                contain either -1 or the label in the dataset.

        Returns:
            The given labels and the true labels, both `[N]`, int64. A true label is -1 for an out-of-distribution
            image, and `UNVERIFIED` if it is unknown. If the true labels of all samples are unknown, the second result
            is None.

        Raises:
            ValueError: if the table is invalid or does not match the dataset.
        """
        table = self._table()
        true = checked_labels(label, num_classes)
        row = table.rows(len(true), names)
        given = true.copy()
        given[row] = labels = table.labels(num_classes, class_names)
        if self.column == "label" and class_names and "label_name" in table.cells:
            named = table.labels(num_classes, class_names, "label_name")
            if len(differ := np.flatnonzero(named != labels)):
                first = differ[0]
                raise ValueError(
                    f"line {first + 2} of {self.path} has the label {class_names[labels[first]]} and the label_name "
                    f"{class_names[named[first]]}: correct both columns, or delete the column label_name"
                )
        if "clean_label" not in table.cells:
            return torch.from_numpy(given), clean_label
        recorded = table.truth(num_classes, class_names)
        if names is not None and "name" in table.cells:
            truth = np.full(len(true), UNVERIFIED)
            truth[row] = recorded
        else:
            truth, in_order = true.copy() if clean_label is None else clean_label.numpy().copy(), true.copy()
            empty = recorded == UNVERIFIED
            in_order[row] = np.where(empty | (recorded == truth[row]), true[row], recorded)
            check_order(self.path, in_order, true)
            truth[row[empty]] = UNVERIFIED
        return torch.from_numpy(given), torch.from_numpy(truth) if (truth != UNVERIFIED).any() else clean_label

    def dropped_mask(self, samples: int, names: Sequence[str] | None = None) -> Tensor:
        """Return whether the table drops each sample of the dataset, `[samples]`, bool."""
        table = self._table()
        dropped = np.zeros(samples, dtype=bool)
        if "action" in table.cells:
            action = table.cells["action"].str.strip()
            if not action.isin(ACTIONS).all():
                other = action[~action.isin(ACTIONS)].iloc[0]
                raise ValueError(f"action of {self.path} must be one of {', '.join(ACTIONS)}, got {other!r}")
            dropped[table.rows(samples, names)] = action == "drop"
        return torch.from_numpy(dropped)

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Return the transition matrix, computed from the rows of the table that have a true class.

        The table must have the column `clean_label`.
        """
        table = self._table()
        if "clean_label" not in table.cells:
            raise ValueError(
                f"{self.path} has no column clean_label, so its transition matrix is unknown; "
                "use empirical_transition_matrix with true labels from elsewhere"
            )
        clean, given = table.truth(num_classes, None), table.labels(num_classes, None)
        return empirical_transition_matrix(clean[clean >= 0], given[clean >= 0], num_classes)

    def _table(self) -> LabelTable:
        return LabelTable(self.path, self.column, self.key, self.partial, self.classes)


def load_arrays(path: str) -> dict[str, Any]:
    """Load a file of NumPy integer arrays that `torch.save` wrote, without running code from the file.

    Raises:
        ValueError: if the file is damaged, or contains anything other than NumPy integer arrays.
    """
    try:
        labels = read_torch_arrays(Path(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not a file of label arrays ({error})") from error
    if not isinstance(labels, dict):
        raise ValueError(f"{path} must contain a dictionary of label arrays, got {type(labels).__name__}")
    return labels


def check_order(path: str, recorded: np.ndarray, label: np.ndarray) -> None:
    """Reject recorded labels that belong to a different dataset, or to this dataset in a different order.

    Args:
        path: file of the recorded labels.
        recorded: true labels according to the file, `[M]`.
        label: true labels of the dataset, `[N]`.
    """
    if len(recorded) != len(label):
        raise ValueError(
            f"{path} labels {len(recorded)} samples, but the data have {len(label)}; "
            "recorded labels belong to the whole dataset, before any split"
        )
    differ = np.flatnonzero(recorded != label)
    if len(differ):
        raise ValueError(
            f"the true labels in {path} differ from those of the data at {len(differ)} of {len(label)} samples, "
            f"first at {differ[0]}: the file is for a different dataset, or for a different order of this dataset"
        )
