"""A table whose rows are images from two groups of classes, such as even and odd digits.

The number of training images can be chosen.

The training and test images of a dataset are pooled. The test set is sampled from the pool with a fixed seed. The
training set is sampled from the remaining images with the seed of the run.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageSet
from datamodules.tables.table_set import Rows, TableSet


class SignedImages(TableSet):
    """Rows of images: `features` are `[C, H, W]` in [0, 1], and `target` is 1 or -1, depending on the class.

    Args:
        images: dataset in memory. Its training and test images are pooled.
        positive: classes with target 1. The list must contain at least one class, but not all classes.
        num_points: number P of training images.
        num_test: number of test images. The test images do not depend on the seed.
        seed: seed of the training set. None means the seed of the DataModule.
    """

    num_classes = 2

    def __init__(
        self, images: ImageSet, positive: Sequence[int], num_points: int, num_test: int, seed: int | None = None
    ) -> None:
        at_least(1, num_points=num_points, num_test=num_test)
        if not set(positive) < set(range(images.num_classes)) or not positive:
            raise ValueError(
                f"positive must list some but not all of the classes 0...{images.num_classes - 1}, got {list(positive)}"
            )
        self.images = images
        self.positive = list(positive)
        self.num_points = num_points
        self.num_test = num_test
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": tuple(self.images.image_shape), "target": ()}

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> Rows:
        return self._chosen()[0]

    def test(self) -> Rows:
        return self._chosen()[1]

    def _chosen(self) -> tuple[Rows, Rows]:
        sources = [self.images.training(), self.images.test()]
        sizes = [len(source.label) for source in sources]
        if self.num_points + self.num_test > sum(sizes):
            raise ValueError(
                f"num_points {self.num_points} plus num_test {self.num_test} exceed the {sum(sizes)} images of "
                f"{type(self.images).__name__}"
            )
        pool = np.random.default_rng([0, 1]).permutation(sum(sizes))
        rest = np.random.default_rng([self.seed or 0, 0]).permutation(pool[self.num_test :])

        def rows(chosen: np.ndarray) -> Rows:
            parts = [
                torch.from_numpy(chosen[chosen < sizes[0]]),
                torch.from_numpy(chosen[chosen >= sizes[0]] - sizes[0]),
            ]
            pairs = list(zip(sources, parts, strict=True))
            image = torch.cat([source.fetch(part, None).float() / source.data_range for source, part in pairs])
            label = torch.cat([source.label[part] for source, part in pairs])
            sign = torch.isin(label, torch.tensor(self.positive)).float() * 2 - 1
            return Rows({"features": image, "target": sign})

        return rows(rest[: self.num_points]), rows(pool[: self.num_test])
