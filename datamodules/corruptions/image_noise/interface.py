"""The interface of image noise."""

from abc import ABC, abstractmethod

from torch import Tensor

from datamodules.corruptions.image_noise.numbers import Numbers


class ImageNoise(ABC):
    """A law of noisy images y given clean ones x."""

    @abstractmethod
    def sample(self, clean: Tensor, numbers: Numbers) -> Tensor:
        """Draw a noisy image of each clean one, neither clipped nor rounded.

        Args:
            clean: `[B, C, H, W]`, in [0, 1].
            numbers: random numbers, one source for all of the batch.

        Returns:
            `[B, C, H, W]`, in the units of the clean images.
        """
