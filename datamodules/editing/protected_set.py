"""Interface of datasets of images to protect.

A dataset reads its splits, and its DataModule decides which images form a batch.
"""

from abc import ABC, abstractmethod

from datamodules.loading.seeded_batches import RequestedSet
from datamodules.sets import FetchedSet


class ProtectedSet(FetchedSet, ABC):
    """Dataset of images with masks of the regions that an editor keeps.

    Batches have the type `ProtectedImageBatch`. Their pixels are the stored values, before scaling to [0, 1].

    Batches also have `data_range`, the stored value that corresponds to 1.
    """

    image_shape: tuple[int, ...]
    """Shape C, H, W of an image."""

    @abstractmethod
    def training(self, seed: int) -> RequestedSet:
        """Read the images for training a model.

        Args:
            seed: random seed from which the regions are sampled.
        """

    @abstractmethod
    def test(self, seed: int, with_prompts: bool) -> RequestedSet:
        """Read the images to protect.

        Args:
            seed: random seed from which the regions are sampled.
            with_prompts: whether to also read the editors' prompts. Protection does not need them.
        """
