"""Interface of sources of noise sequences for clips."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class NoiseSource(ABC):
    """A source of noise sequences with nearly constant image content. One sequence is sampled per clip."""

    @abstractmethod
    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raise an error for clips that are longer or larger than the sequences or have other channels.

        Args:
            shape: T, C, h and w of a clip.
            name: argument that defines the source, for error messages.

        Raises:
            ValueError: if the sequences are shorter or smaller than the clip, or have other channels.
        """

    @abstractmethod
    def drawn(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Sample a sequence for a clip `[T, C, h, w]`. Both have the same shape."""
