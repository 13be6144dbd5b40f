"""The interface of what gives clips sequences of noise."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class NoiseSource(ABC):
    """Sequences of noise alone on nearly constant content, of which one is drawn for each clip."""

    @abstractmethod
    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Refuse clips that the sequences do not fill.

        Args:
            shape: T, C, h and w of a clip.
            name: the source's argument, for messages.

        Raises:
            ValueError: if all sequences are shorter, smaller or of other channels.
        """

    @abstractmethod
    def drawn(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Draw a sequence for a clip `[T, C, h, w]`, of its shape."""
