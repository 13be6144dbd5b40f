"""The tasks of GLUE, read from GLUE's tab-separated files.

Source: Wang, Singh, Michael, Hill, Levy and Bowman, GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
Language Understanding, ICLR 2019, arXiv 1804.07461.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.arguments import one_of
from datamodules.files.data_directory import data_directory
from datamodules.text.text_set import Texts, TextSet


@dataclass(frozen=True)
class GlueTask:
    """File layout of one task of GLUE.

    Args:
        folder: name of the task's folder.
        texts: names of the columns that contain the text or the text pair.
        label: name of the label column.
        classes: labels as they are written in the files, in the order of class indices. Empty if labels are real
            numbers.
        names: names of all columns, for files without a header.
        dev: name of the file with the labelled test texts.
        incomplete: whether the files contain truncated lines. Truncated lines are skipped, as in the library
            `datasets`.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    names: tuple[str, ...] | None = None
    dev: str = "dev.tsv"
    incomplete: bool = False


LINE = "\t"
"""Key of the line numbers in a table. No column can have this name."""
HIGHEST = 5
"""Largest similarity in STS-B."""
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": GlueTask("CoLA", ("sentence",), "label", ("0", "1"), names=("source", "label", "star", "sentence")),
    "sst2": GlueTask("SST-2", ("sentence",), "label", ("0", "1")),
    "mrpc": GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1")),
    "qqp": GlueTask("QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), incomplete=True),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        dev="dev_matched.tsv",
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT),
    "rte": GlueTask("RTE", ("sentence1", "sentence2"), "label", ENTAILMENT),
    "stsb": GlueTask("STS-B", ("sentence1", "sentence2"), "score", ()),
}


class Glue(TextSet):
    """Dataset of a GLUE task, with `train.tsv` for training and `dev.tsv` for testing.

    The labels of `dev.tsv` are public. For MNLI, the matched development set is used.

    For STS-B, a label is the similarity of two texts, a real number in [0, 5], and `num_classes` is 1. The files are in
    `<data_dir>/<Task>`, in the form in which GLUE distributes them, for example `RTE/train.tsv` and `SST-2/dev.tsv`.

    Args:
        task: task name: cola, sst2, mrpc, qqp, mnli, qnli, rte or stsb.
        data_dir: folder that contains one folder per task. None means `glue` in the NOISEWORKS_DATA directory.
        prefixed: whether to concatenate the task name, the column names and the texts, as in `rte sentence1: ...
            sentence2: ...`. T5 needs this form.
        training_file: file name of the training texts.
    """

    def __init__(
        self, task: str, data_dir: str | None = None, prefixed: bool = False, training_file: str = "train.tsv"
    ) -> None:
        one_of(TASKS, task=task)
        self.task = task
        self.data_dir = data_dir
        self.prefixed = prefixed
        self.training_file = training_file
        self.class_names = TASKS[task].classes or None
        self.num_classes = max(1, len(TASKS[task].classes))

    def training(self) -> Texts:
        return self._read(self.training_file)

    def test(self) -> Texts:
        return self._read(TASKS[self.task].dev)

    def _read(self, name: str) -> Texts:
        task = TASKS[self.task]
        folder = data_directory(self.data_dir, "GLUE")
        path = (folder if self.data_dir is not None else folder / "glue") / task.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"GLUE: {path} is missing; expected {task.folder}/{name} as in {task.folder}.zip of gluebenchmark.com"
            )
        table = read_columns(path, task.names, leave_out=task.incomplete)
        for column in (*task.texts, task.label):
            if column not in table:
                known = ", ".join(name for name in table if name != LINE)
                raise ValueError(f"{path} has no column {column!r}; its columns are {known}")
        label = _labels(path, table.pop(LINE), table[task.label], task.classes)
        first, *more = (table[column] for column in task.texts)
        if not self.prefixed:
            return Texts(first, more[0] if more else None, label)
        said = [self.task] * len(first)
        for column, texts in zip(task.texts, (first, *more), strict=True):
            name = f"sentence{column[1]}" if column.startswith("#") else column
            said = [f"{so_far} {name}: {text}" for so_far, text in zip(said, texts, strict=True)]
        return Texts(said, None, label)


def _labels(path: Path, lines: Sequence[str], written: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Convert labels to class indices, or to real numbers if there are no classes."""
    places: dict[str, float] = {each: place for place, each in enumerate(classes)}
    for line, each in zip(lines, written, strict=True):
        if classes and each not in places:
            raise ValueError(f"{path}, line {line}: label {each!r} is not one of {', '.join(classes)}")
        if not classes:
            with suppress(ValueError):
                places[each] = float(each)
            if not 0 <= places.get(each, math.nan) <= HIGHEST:
                raise ValueError(f"{path}, line {line}: label {each!r} is not a number in [0, {HIGHEST}]")
    return torch.tensor([places[each] for each in written])


def read_columns(path: Path, names: tuple[str, ...] | None, leave_out: bool = False) -> dict[str, list[str]]:
    """Read tab-separated values as lists by column. Quotation marks have no special meaning.

    Args:
        path: text file, encoded in UTF-8.
        names: column names. None reads the names from the first line.
        leave_out: whether to skip lines with too few values. False rejects the file.

    Returns:
        The columns by name. The key `LINE` has the line number of each row.
    """
    columns: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                values = line.removesuffix("\n").removesuffix("\r").split("\t")
                if not columns:
                    columns = {name: [] for name in (*(names or values), LINE)}
                    if names is None:
                        continue
                expected = len(columns) - 1
                if len(values) < expected and leave_out:
                    continue
                if len(values) != expected:
                    raise ValueError(f"{path}, line {number}: expected {expected} values, got {len(values)}")
                for column, value in zip(columns.values(), (*values, str(number)), strict=True):
                    column.append(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
    if not columns.get(LINE):
        raise ValueError(f"{path} has no rows")
    return columns
