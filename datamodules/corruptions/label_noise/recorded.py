"""Labels that were recorded rather than drawn: human annotations of CIFAR, and any user's table."""

import csv
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.label_noise.contract import checked_labels, empirical_transition_matrix

AnnotationKind = Literal["aggre_label", "worse_label", "random_label1", "random_label2", "random_label3", "noisy_label"]


class HumanCIFARN:
    """The human annotations of CIFAR-10N and CIFAR-100N.

    The files list the whole training set, before any split, in the order of CIFAR's Python version (torchvision's). The
    distributions of TensorFlow and Hugging Face order the images differently, and are refused by the recorded clean
    labels.

    Source: Wei et al., Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations, ICLR 2022,
    arXiv 2110.12088; the files `CIFAR-10_human.pt` and `CIFAR-100_human.pt` of github.com/UCSC-REAL/cifar-10-100n.

    Args:
        path: the file.
        kind: of CIFAR-10N `aggre_label` (majority of three annotators, 9.0 % wrong), `random_label1`, `random_label2`,
            `random_label3` (one annotator; 17.2, 18.1 and 17.6 % wrong) or `worse_label` (a wrong one where any is,
            40.2 %); of CIFAR-100N `noisy_label` (40.2 %).

    Raises:
        ValueError: if `kind` is none of these.
    """

    seed: int | None = None

    def __init__(self, path: str, kind: AnnotationKind) -> None:
        if kind not in get_args(AnnotationKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(AnnotationKind))}, got {kind}")
        self.path = path
        self.kind = kind

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        clean, given = self._read(num_classes)
        check_order(self.path, clean, checked_labels(label, num_classes))
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Frequencies in the file, which holds the clean labels too."""
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
    """Labels from a table with the columns `index`, `label` and, if known, `clean_label`; other columns are ignored.

    Args:
        path: CSV file with a header. `index` is the position in the set; every position must occur once, in any order.
            Without `clean_label` no label counts as the true one: the table may well correct those of the data.
    """

    seed: int | None = None

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def truth_known(self) -> bool:
        """Whether the table says which labels are true."""
        return "clean_label" in self._header()

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        clean, given = self._read(num_classes)
        true = checked_labels(label, num_classes)
        if clean is not None:
            check_order(self.path, clean, true)
        elif len(given) != len(true):
            raise ValueError(f"{self.path} labels {len(given)} samples, but the data have {len(true)}")
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Frequencies in the table, if it has the column `clean_label`."""
        clean, given = self._read(num_classes)
        if clean is None:
            raise ValueError(
                f"{self.path} has no column clean_label, so its transition matrix is unknown; "
                "empirical_transition_matrix takes the true labels from elsewhere"
            )
        return empirical_transition_matrix(clean, given, num_classes)

    def _header(self) -> list[str]:
        if not Path(self.path).is_file():
            raise FileNotFoundError(
                f"{self.path} was not found: expected a CSV file with the columns index,label[,clean_label]"
            )
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]

    def _read(self, num_classes: int) -> tuple[np.ndarray | None, np.ndarray]:
        header = self._header()
        for name in ("index", "label"):
            if name not in header:
                raise ValueError(f"{self.path} must have the columns index,label[,clean_label], got {','.join(header)}")
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            next(csv.reader(file))
            names = [name for name in ("index", "label", "clean_label") if name in header]
            columns = [header.index(name) for name in names]
            try:
                table = np.loadtxt(
                    file, np.int64, comments=None, delimiter=",", usecols=columns, ndmin=2, quotechar='"'
                )
            except ValueError as error:
                raise ValueError(
                    f"{self.path} must hold integers in the columns {', '.join(names)}: {error}"
                ) from error
        order = np.argsort(table[:, 0], kind="stable")
        wrong = np.flatnonzero(table[order, 0] != np.arange(len(table)))
        if len(wrong):
            found, expected = table[order[wrong[0]], 0], wrong[0]
            what = f"{expected} is missing" if found > expected else f"{found} occurs twice or is negative"
            raise ValueError(f"index in {self.path} must take each of 0, 1, 2 and so on once: {what}")
        given, *clean = (
            checked_labels(table[order, i], num_classes, f"{names[i]} of {self.path}") for i in range(1, len(names))
        )
        return (clean[0] if clean else None), given


def load_arrays(path: str) -> dict[str, Any]:
    """Loads a file of NumPy integer arrays that `torch.save` wrote (under NumPy 1 or 2) without running code from it.

    Raises:
        ValueError: if the file is damaged or holds anything else.
    """
    rebuild: Any = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [
        np.ndarray,
        np.dtype,
        *(type(np.dtype(code)) for code in np.typecodes["AllInteger"]),
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            labels = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path} is damaged or not a file of label arrays") from error
    if not isinstance(labels, dict):
        raise ValueError(f"{path} must hold a dictionary of label arrays, got {type(labels).__name__}")
    return labels


def check_order(path: str, recorded: np.ndarray, label: np.ndarray) -> None:
    """Refuses recorded labels that belong to another set, or to this one in another order.

    Args:
        path: the file they come from.
        recorded: `[M]`, true labels according to the file.
        label: `[N]`, true labels of the data.
    """
    if len(recorded) != len(label):
        raise ValueError(
            f"{path} labels {len(recorded)} samples, but the data have {len(label)}; "
            "recorded labels belong to the whole set, before any split"
        )
    differ = np.flatnonzero(recorded != label)
    if len(differ):
        raise ValueError(
            f"the true labels in {path} differ from those of the data at {len(differ)} of {len(label)} samples, "
            f"first at {differ[0]}: the two sets are not the same or not in the same order"
        )
