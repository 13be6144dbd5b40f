"""Clustered synthetic data with rare sub-clusters and out-of-distribution samples: a controlled stand-in for web noise.

Each class is a common cluster and a rare one, whose centre lies towards the out-of-distribution side; the samples of no
class form clusters of their own there and bear random labels. A hyperplane can cut them off, and then cuts the rare
clusters least where these lie on its near side; a detector that goes by the loss takes the samples of rare clusters for
noise until they are learned.

With e a unit vector, centres m that are orthogonal to it and to each other, as long as a vector of N(0, 1) is on
average, and both of them randomly oriented,

    common: scale m + offset e,    rare: scale m + rare_offset e,    no class: scale m - offset e,

samples are N(centre, 1), rescaled to [0, 1] and rounded to 255 levels. They come as images of one row. No two centres
are nearer to each other for one seed than for another, so that seeds are equally hard.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import UNKNOWN, ImageSet, ImagesInMemory

NUM_FEATURES, NUM_CLASSES = 24, 6
RANGE = 8.0
"""Values in -RANGE...RANGE are mapped to [0, 1]; those beyond are cut off."""


class ClusteredSamples(NamedTuple):
    """Drawn samples."""

    value: np.ndarray
    """`[N, D]`."""
    label: np.ndarray
    """`[N]`: the class, or of a sample of no class a random one."""
    rare: np.ndarray
    """`[N]`: whether it is of a rare cluster."""
    foreign: np.ndarray
    """`[N]`: whether it is of no class."""


class Clusters:
    """Centres of all clusters, drawn once for a seed.

    Args:
        offset: distance of common clusters and of those of no class from the plane between them.
        rare_offset: position of the rare clusters along the same direction; the nearer to -offset, the more they look
            like samples of no class.
        scale: length of the centres within the plane, in units of that of a normal vector.
        seed: random seed of the centres.
    """

    def __init__(self, offset: float, rare_offset: float, scale: float, seed: int) -> None:
        random = np.random.default_rng([seed, 0])
        orthonormal, _ = np.linalg.qr(random.normal(size=(NUM_FEATURES, 3 * NUM_CLASSES + 1)))
        direction = orthonormal[:, 0]
        centre = scale * NUM_FEATURES**0.5 * orthonormal[:, 1:].T.reshape(3, NUM_CLASSES, NUM_FEATURES)
        position = np.array([offset, rare_offset, -offset])
        self.common, self.rare, self.foreign = centre + position[:, None, None] * direction

    def draw(
        self, num_clean: int, num_foreign: int, rare_share: float, random: np.random.Generator
    ) -> ClusteredSamples:
        """Samples of the classes, equally many of each, and samples of no class with random labels.

        Args:
            num_clean: samples of the classes.
            num_foreign: samples of no class.
            rare_share: part of each class that is of its rare cluster.
            random: generator of all random numbers.
        """
        label = np.arange(num_clean) % NUM_CLASSES
        rare = random.random(num_clean) < rare_share
        centre = np.where(rare[:, None], self.rare[label], self.common[label])
        given = random.integers(NUM_CLASSES, size=num_foreign)
        centre = np.concatenate([centre, self.foreign[random.integers(NUM_CLASSES, size=num_foreign)]])
        return ClusteredSamples(
            centre + random.normal(size=centre.shape),
            np.concatenate([label, given]),
            np.concatenate([rare, np.zeros(num_foreign, dtype=bool)]),
            np.arange(num_clean + num_foreign) >= num_clean,
        )


class Clustered(ImageSet):
    """Six classes in 24 dimensions, with samples of no class among the training samples. No download.

    Args:
        num_clean: training samples of the classes.
        num_foreign: training samples of no class, with random labels.
        num_test: test samples, all of the classes.
        rare_share: part of each class that is of its rare cluster, in (0, 1).
        offset: distance of common clusters and of those of no class from the plane between them.
        rare_offset: position of the rare clusters in the same direction.
        scale: length of the centres within the plane, in units of that of a normal vector.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = NUM_CLASSES
    image_shape = (1, 1, NUM_FEATURES)

    def __init__(
        self,
        num_clean: int = 900,
        num_foreign: int = 600,
        num_test: int = 1500,
        rare_share: float = 0.25,
        offset: float = 3.0,
        rare_offset: float = 1.5,
        scale: float = 0.8,
    ) -> None:
        at_least(1, num_clean=num_clean, num_test=num_test)
        at_least(0, num_foreign=num_foreign)
        within(0, 1, "()", rare_share=rare_share)
        self.num_clean = num_clean
        self.num_foreign = num_foreign
        self.num_test = num_test
        self.rare_share = rare_share
        self.offset = offset
        self.rare_offset = rare_offset
        self.scale = scale
        self.seed = 0

    def prepared(self, seed: int, device: torch.device) -> Self:
        self.seed = seed
        return self

    def drawn(self, split: str) -> ClusteredSamples:
        """Draw the samples of `train` or `test`."""
        clusters = Clusters(self.offset, self.rare_offset, self.scale, self.seed)
        train = split == "train"
        counts = (self.num_clean, self.num_foreign) if train else (self.num_test, 0)
        return clusters.draw(*counts, self.rare_share, np.random.default_rng([self.seed, 1 if train else 2]))

    def training(self) -> ImagesInMemory:
        samples = self.drawn("train")
        return self._stored(samples, torch.from_numpy(np.where(samples.foreign, UNKNOWN, samples.label)))

    def test(self) -> ImagesInMemory:
        return self._stored(self.drawn("test"))

    def _stored(self, samples: ClusteredSamples, clean_label: Tensor | None = None) -> ImagesInMemory:
        level = np.clip((samples.value + RANGE) / (2 * RANGE), 0, 1) * 255
        image = torch.from_numpy(level.round().astype(np.uint8)).view(-1, *self.image_shape)
        return ImagesInMemory(image, torch.from_numpy(samples.label).long(), clean_label=clean_label)
