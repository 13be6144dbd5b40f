"""Interface of datasets of images to protect: plain objects that read their splits, independent of batching."""

from abc import ABC, abstractmethod

from datamodules.loading.seeded_batches import RequestedSet


class ProtectedSet(ABC):
    """Images with the regions that an editor keeps; batches are `ProtectedImageBatch`es of images as stored.

    Batches also have `data_range`, the stored value that corresponds to 1.
    """

    image_shape: tuple[int, ...]
    """C, H, W."""

    @abstractmethod
    def training(self, seed: int) -> RequestedSet:
        """Read the images for training a model.

        Args:
            seed: seed of random regions.
        """

    @abstractmethod
    def test(self, seed: int, with_prompts: bool) -> RequestedSet:
        """Read the images to protect.

        Args:
            seed: seed of random regions.
            with_prompts: read the editors' prompts as well, which protection does not need.
        """
