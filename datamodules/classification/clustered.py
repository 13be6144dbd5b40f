"""Clustered synthetic data with rare sub-clusters and out-of-distribution samples: a controlled stand-in for web noise.

Each class has a common cluster and a rare cluster. The rare cluster is closer to the out-of-distribution samples.
Out-of-distribution samples form separate clusters and have random labels. A hyperplane can separate the
out-of-distribution samples from the in-distribution samples. This hyperplane misclassifies the fewest rare samples if
the rare clusters lie on its in-distribution side. A detector based on the loss mistakes rare samples for noise until
the network has learned these samples.

Let e be the unit normal vector of the hyperplane. Each cluster has a vector m. The vectors m are orthogonal to e and to
each other, and their norm is the root-mean-square norm of a vector from N(0, 1). The vectors m and e are randomly
rotated together. The centres of the common, rare and out-of-distribution ("no class") clusters are

    common: scale m + offset e,    rare: scale m + rare_offset e,    no class: scale m - offset e.

Samples from N(centre, 1) are rescaled to [0, 1] and quantised to 255 levels. The quantised samples are stored as images
with one row. The distances between centres are the same for all seeds, so all seeds are equally hard.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import UNKNOWN, ImageSet, ImagesInMemory

NUM_FEATURES, NUM_CLASSES = 24, 6
RANGE = 8.0
"""Values in -RANGE...RANGE are mapped to [0, 1]; values outside are clipped."""


class ClusteredSamples(NamedTuple):
    """Generated samples, with their labels and the types of their clusters."""

    value: np.ndarray
    """Values, `[N, D]`."""
    label: np.ndarray
    """Class of each sample, `[N]`; random for out-of-distribution samples."""
    rare: np.ndarray
    """Whether each sample belongs to a rare cluster, `[N]`."""
    foreign: np.ndarray
    """Whether each sample is out of distribution, `[N]`."""


class Clusters:
    """Centres of all clusters.

    Args:
        offset: distance from the hyperplane to the common clusters on one side, and to the out-of-distribution clusters
            on the other side.
        rare_offset: signed distance of the rare clusters from the hyperplane. With -`offset`, the rare clusters would
            be on the same side as the out-of-distribution clusters, at the same distance.
        scale: norm of the centres' projections onto the hyperplane, divided by the root-mean-square norm of a standard
            normal vector.
        seed: seed of the centres.
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
        """Draw in-distribution samples, equally many per class, and out-of-distribution samples with random labels.

        Args:
            num_clean: number of in-distribution samples.
            num_foreign: number of out-of-distribution samples.
            rare_share: expected fraction of each class that comes from its rare cluster.
            random: random number generator.
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
    """Samples of six classes in 24 dimensions. The training samples include out-of-distribution samples.

    No download is required.

    Args:
        num_clean: number of in-distribution training samples.
        num_foreign: number of out-of-distribution training samples, which have random labels.
        num_test: number of test samples, all in distribution.
        rare_share: expected fraction of each class that comes from its rare cluster, in (0, 1).
        offset: distance from the hyperplane to the common clusters on one side, and to the out-of-distribution clusters
            on the other side.
        rare_offset: signed distance of the rare clusters from the hyperplane. It is positive on the side of the common
            clusters.
        scale: norm of the centres' projections onto the hyperplane, divided by the root-mean-square norm of a standard
            normal vector.
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

    def prepare(self, seed: int, device: torch.device) -> Self:
        self.seed = seed
        return self

    def draw(self, split: str) -> ClusteredSamples:
        """Sample the split `train` or `test`."""
        clusters = Clusters(self.offset, self.rare_offset, self.scale, self.seed)
        train = split == "train"
        counts = (self.num_clean, self.num_foreign) if train else (self.num_test, 0)
        return clusters.draw(*counts, self.rare_share, np.random.default_rng([self.seed, 1 if train else 2]))

    def training(self) -> ImagesInMemory:
        samples = self.draw("train")
        return self._read_stored(samples, torch.from_numpy(np.where(samples.foreign, UNKNOWN, samples.label)))

    def test(self) -> ImagesInMemory:
        return self._read_stored(self.draw("test"))

    def _read_stored(self, samples: ClusteredSamples, clean_label: Tensor | None = None) -> ImagesInMemory:
        level = np.clip((samples.value + RANGE) / (2 * RANGE), 0, 1) * 255
        image = torch.from_numpy(level.round().astype(np.uint8)).view(-1, *self.image_shape)
        return ImagesInMemory(image, torch.from_numpy(samples.label).long(), clean_label=clean_label)
