"""Interface of datasets of images to protect.

A dataset reads its splits and knows nothing of batches.
"""

from abc import ABC, abstractmethod

from datamodules.loading.seeded_batches import RequestedSet


class ProtectedSet(ABC):
    """Images with the regions that an editor keeps.

    Batches have the type `ProtectedImageBatch`, with pixels as stored.

    Batches also have `data_range`, the stored value that corresponds to 1.
    """

    image_shape: tuple[int, ...]
    """C, H, W."""

    def fetch_missing(self) -> None:  # noqa: B027 - most have nothing to fetch
        """Download missing files, if requested. One rank of each machine calls this method."""

    @abstractmethod
    def training(self, seed: int) -> RequestedSet:
        """Read the images for training a model.

        Args:
            seed: random seed of the regions.
        """

    @abstractmethod
    def test(self, seed: int, with_prompts: bool) -> RequestedSet:
        """Read the images to protect.

        Args:
            seed: random seed of the regions.
            with_prompts: whether to read the prompts of editors as well. Protection does not need them.
        """
