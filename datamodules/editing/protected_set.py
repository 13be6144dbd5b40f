"""The interface of data sets of images to protect: plain objects that read splits, and know nothing of batches."""

from abc import ABC, abstractmethod

from datamodules.loading.seeded_batches import RequestedSet


class ProtectedSet(ABC):
    """Images with the regions that an editor keeps; batches are `ProtectedImageBatch`es whose images are as stored.

    They have the stored value that stands for 1 as `data_range`.
    """

    image_shape: tuple[int, ...]
    """C, H, W."""

    @abstractmethod
    def training(self, seed: int) -> RequestedSet:
        """Read the images that a model may be fitted to.

        Args:
            seed: random seed of regions that are drawn.
        """

    @abstractmethod
    def test(self, seed: int, with_prompts: bool) -> RequestedSet:
        """Read the images to protect.

        Args:
            seed: random seed of regions that are drawn.
            with_prompts: read what editors are told, too, which protecting an image does not need.
        """
