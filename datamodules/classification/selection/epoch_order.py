"""Which training images an epoch uses, and in which order."""

from typing import Any

import numpy as np
from torch import Tensor

from datamodules.arguments import at_least


class EpochOrder:
    """Samples the order of the training images of an epoch.

    Args:
        batch_size: global training batch size.
        batches_per_epoch: number of batches per epoch with equally many images of each given label. A class with too
            few images contributes all of its images. None means all training images.
        repeats: number R of augmentations of each image in an epoch.
    """

    def __init__(self, batch_size: int, batches_per_epoch: int | None, repeats: int) -> None:
        at_least(1, batches_per_epoch=batches_per_epoch, repeats=repeats)
        if repeats > 1 and batches_per_epoch is not None:
            raise ValueError(f"repeats must be 1 if batches_per_epoch is set, got {repeats}")
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.repeats = repeats

    def images_per_class(self, given: Tensor, num_classes: int) -> np.ndarray[Any, Any]:
        """Return how many images of each class an epoch uses, `[num_classes]`, for given labels `[N]`."""
        available = np.bincount(given.numpy(), minlength=num_classes)
        if self.batches_per_epoch is None:
            return available
        share, rest = divmod(self.batches_per_epoch * self.batch_size, num_classes)
        return np.minimum(available, share + (np.arange(num_classes) < rest))

    def samples(self, given: Tensor, num_classes: int) -> int:
        """Return the number of samples in an epoch."""
        return int(self.images_per_class(given, num_classes).sum())

    def draw(self, random: np.random.Generator, given: Tensor, num_classes: int) -> np.ndarray[Any, Any]:
        """Sample the order of an epoch as positions in the training set, from its given labels `[N]`."""
        if self.repeats > 1:
            return repeated_augmentation(random, len(given), self.batch_size, self.repeats)
        if self.batches_per_epoch is None:
            return random.permutation(len(given))
        chosen = [
            random.permutation(np.flatnonzero(given.numpy() == category))[:count]
            for category, count in enumerate(self.images_per_class(given, num_classes))
        ]
        return random.permutation(np.concatenate(chosen))


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
