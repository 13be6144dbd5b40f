"""Split of training images into images for training, validation and testing."""

from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import ImageSet


@dataclass(frozen=True)
class Split:
    """Which training images are held out for validation and testing.

    Args:
        validation_fraction: fraction of each class to hold out of the training images for validation, in [0, 1). Label
            noise also corrupts the validation labels. None holds out one tenth if the dataset has no validation images.
        test_fraction: fraction of each class to hold out of the training images for testing, in [0, 1), if the dataset
            has no test images. If true labels are unknown, testing uses the given labels, which are as noisy as the
            training labels.
        folds: number of folds of the training images, stratified by given label. One fold is held out for validation,
            and for testing if there are no test images. `callbacks.labels.LabelReport` scores the labels of this fold.
            None means no folds.
        fold: index of the held-out fold, in 0 ... `folds` - 1.
    """

    validation_fraction: float | None = 0.0
    test_fraction: float = 0.0
    folds: int | None = None
    fold: int = 0

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            within(0, 1, "[)", **{f"split.{name}": getattr(self, name)})
        at_least(2, **{"split.folds": self.folds})
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(f"split.fold must be in 0 ... folds - 1 (folds is {self.folds}), got {self.fold}")
        if self.folds is not None and self.validation_fraction:
            raise ValueError(
                f"split.validation_fraction must be 0 if folds is set, because a fold is held out; got "
                f"{self.validation_fraction} with folds {self.folds}"
            )

    def rows(self, images: ImageSet, label: Tensor, given: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the training, validation and test rows. The choice depends only on the seed and the labels.

        Args:
            images: dataset, which may have validation and test images of its own.
            label: labels in the dataset, `[N]`.
            given: labels after label noise, `[N]`.
            seed: seed of the random choice.
        """
        rest, tested = torch.arange(len(given)), torch.arange(0)
        if self.test_fraction and not images.has_test:
            rest, tested = stratified_split(label, self.test_fraction, seed, stream=4)
        if self.folds is not None:
            kept, held_out = fold_split(given[rest], self.folds, self.fold, seed)
        else:
            fraction = self.validation_fraction
            if fraction is None:
                fraction = 0.1 if images.validation() is None else 0.0
            kept, held_out = stratified_split(label[rest], fraction, seed)
        if len(kept) == 0:
            raise ValueError(
                f"split.validation_fraction {self.validation_fraction} leaves 0 of {len(rest)} training images"
            )
        return rest[kept], rest[held_out], tested

    def report(self, tested: int, images: int) -> None:
        """Print how many of the training images are held out for testing, if any."""
        if tested:
            rank_zero_info(
                f"There are no test images: {tested} of the {images} training images (data.split.test_fraction "
                f"{self.test_fraction} of each class) are held out for testing; their labels may be wrong, too"
            )


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
