"""Test sets that are distributed differently from the training set: other styles, other sources, corruptions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.classification.labelled_images import ImageSource, LabelledSet
from datamodules.files.image_files import Crop, ImageFiles, files_by_class
from datamodules.loading.global_batches import Request


class SomeClasses(ImageFiles):
    """Files whose labels are some of the classes, `classes` `[k]`."""

    classes: Tensor


def files_of_classes(split: Path, folders: Sequence[tuple[str, int]], num_classes: int, crop: Crop) -> SomeClasses:
    """The images in folders of one class each.

    Args:
        split: folder that holds them.
        folders: the name and the label of each.
        num_classes: in all; where the folders have fewer, the source says which.
        crop: what is cut out of an image.

    Raises:
        FileNotFoundError: if a folder holds no image.
    """
    names, position = files_by_class(split, [folder for folder, _ in folders])
    label = torch.tensor([label for _, label in folders])
    source = SomeClasses(split, names, label[position], crop)
    if len(label.unique()) < num_classes:
        source.classes = label.unique()
    return source


class ShiftedSet(LabelledSet):
    """A test set whose source may say, as `classes` `[k]`, that it has only some of the classes."""

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        if (classes := getattr(self.source, "classes", None)) is not None:
            batch["classes"] = classes
        return batch


class ShiftedTests(ABC):
    """Gives a `LabelledImages` test sets of other distributions, beside its own.

    The own test set is tested as ever; these are read by `callbacks.shifted_accuracy.ShiftedAccuracy`.
    """

    @abstractmethod
    def read_shifted_tests(self: Any) -> dict[str, ImageSource]:
        """The sets by name, with labels in the numbering of the training set.

        Raises:
            FileNotFoundError: if one is missing, saying what was expected where.
            ValueError: if one is damaged, naming it.
        """

    def check_shifted_tests(self: Any) -> None:
        """Reads lists, folders and labels of all sets as a test does, so that what is missing is told before training.

        Raises:
            FileNotFoundError: if a set is missing, saying what was expected where.
            ValueError: if there is none, or one is damaged, naming it, or has labels that there are not.
        """
        sets = self.read_shifted_tests()
        if not sets:
            raise ValueError(f"{type(self).__name__} is given no shifted test set")
        for name, source in sets.items():
            self._check_labels(source.label, name)

    def shifted_test_loaders(self: Any) -> dict[str, DataLoader]:
        """A loader of each set, whose batches hold `classes` where the set has only some of them."""
        loaders = {}
        for name, source in self.read_shifted_tests().items():
            self._check_labels(source.label, name)
            every = torch.arange(len(source.label))
            loaders[name] = self.evaluation_loader(ShiftedSet(source, every, source.label, source.label, seed=None))
        return loaders
