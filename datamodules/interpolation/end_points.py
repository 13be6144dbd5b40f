"""Interface of datasets of image pairs, and two implementations: labelled images, and bundled photographs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, one_of
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import RequestedSet
from datamodules.restoration.photographs import NAMES, Photographs
from datamodules.sets import FetchedSet


class EndPoints(FetchedSet, ABC):
    """Dataset of image pairs.

    Batches have the type `InterpolationBatch`. Their pixels are the stored values, before scaling to [0, 1].

    Batches also have `data_range`, the stored value that corresponds to 1.
    """

    image_shape: tuple[int, ...]
    """Shape C, H, W of an image."""

    def training(self) -> ImageSource | None:
        """Read the images for training a model, or return None if the dataset has only pairs."""
        return None

    @abstractmethod
    def pairs(self, seed: int) -> RequestedSet:
        """Read the pairs.

        Args:
            seed: seed from which random pairs are sampled.
        """


class PairsOfOneClass(EndPoints):
    """Random pairs of test images of the same class, and single images for training a model.

    Args:
        images: dataset of labelled images, such as `Digits` or `MNIST`.
        num_pairs: number of pairs.
    """

    def __init__(self, images: ImageSet, num_pairs: int = 64) -> None:
        at_least(1, num_pairs=num_pairs)
        self.images = images
        self.image_shape = tuple(images.image_shape)
        self.num_pairs = num_pairs

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> ImageSource:
        return self.images.training()

    def pairs(self, seed: int) -> RequestedSet:
        return _DrawnPairs(self.images.test(), self.num_pairs, seed)


class PairsOfPhotographs(EndPoints):
    """Pairs of photographs that are bundled with scikit-image and scikit-learn, see `Photographs`.

    Args:
        names: names of the two photographs of each pair.
        image_size: height and width of the images, in pixels.
    """

    def __init__(
        self, names: Sequence[Sequence[str]] = (("china", "flower"), ("chelsea", "astronaut")), image_size: int = 48
    ) -> None:
        at_least(1, image_size=image_size, num_pairs=len(names))
        if wrong := next((pair for pair in names if len(pair) != 2), None):
            raise ValueError(f"names must have two photographs in each pair, got {list(wrong)}")
        for name in (name for pair in names for name in pair):
            one_of(NAMES, names=name)
        self.names = [list(pair) for pair in names]
        self.image_shape = (3, image_size, image_size)

    def pairs(self, seed: int) -> RequestedSet:
        found = Photographs(self.image_shape[1], colour=True, tested=()).images("training")
        pixels = dict(zip(found.names, found.stored, strict=True))
        first, second = (torch.stack([torch.from_numpy(pixels[pair[end]]) for pair in self.names]) for end in (0, 1))
        return _ListedPairs(first, second, ["_".join(pair) for pair in self.names])


class _ListedPairs:
    """Pairs of images in memory, with names."""

    in_memory = True

    def __init__(self, first: Tensor, second: Tensor, names: list[str]) -> None:
        self.first, self.second, self.names = first, second, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices
        return {
            "first": self.first[rows],
            "second": self.second[rows],
            "data_range": 255,
            "prompt": ["" for _ in rows],
            "name": [self.names[row] for row in rows.tolist()],
            "index": rows,
            "global_batch_size": request.global_batch_size,
        }


class _DrawnPairs:
    """Random pairs of test images of the same class.

    Classes are sampled with equal probability.
    """

    in_memory = True

    def __init__(self, source: ImageSource, num_pairs: int, seed: int) -> None:
        label, random = source.label.numpy(), np.random.default_rng([seed, 2])
        of_class = [rows for k in np.unique(label) if len(rows := np.flatnonzero(label == k)) > 1]
        if not of_class:
            raise ValueError("no class has two test images, but a pair consists of two test images of the same class")
        chosen = [random.choice(of_class[random.integers(len(of_class))], 2, replace=False) for _ in range(num_pairs)]
        self.source = source
        self.rows = torch.from_numpy(np.stack(chosen))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = self.rows[request.indices]
        return {
            "first": self.source.fetch(rows[:, 0], None),
            "second": self.source.fetch(rows[:, 1], None),
            "data_range": self.source.data_range,
            "prompt": ["" for _ in rows],
            "name": [f"{first:05d}_{second:05d}" for first, second in rows.tolist()],
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }
