"""Interface of datasets of images to protect.

A dataset reads its splits and does not form batches.
"""

from abc import ABC, abstractmethod

from datamodules.loading.seeded_batches import RequestedSet


class ProtectedSet(ABC):
    """Dataset of images with masks of the regions that an editor keeps.

    Batches have the type `ProtectedImageBatch`, and their pixels have the stored values.

    Batches also have `data_range`, the stored value that corresponds to 1.
    """

    image_shape: tuple[int, ...]
    """C, H, W."""

    def fetch_missing(self) -> None:  # noqa: B027 - most have nothing to fetch
        """Download missing files, if requested. This method is called on one rank of each machine."""

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
