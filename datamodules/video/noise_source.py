"""Interface of noise sequence sources for clips."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class NoiseSource(ABC):
    """A source of pure noise sequences on nearly constant content; one is sampled per clip."""

    @abstractmethod
    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Reject clips that the sequences cannot cover.

        Args:
            shape: T, C, h and w of a clip.
            name: the source's argument, for error messages.

        Raises:
            ValueError: if the sequences are shorter or smaller, or have other channels.
        """

    @abstractmethod
    def drawn(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Sample a sequence for a clip `[T, C, h, w]`, of the same shape."""
