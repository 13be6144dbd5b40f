"""Interface of sources of noise sequences for clips."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class ClipNoise(ABC):
    """Interface of sources of noise sequences. Their image content is nearly constant. One is sampled for each clip."""

    @abstractmethod
    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raise an error if the sequences do not fit a clip.

        Args:
            shape: T, C, h and w of a clip.
            name: name of the argument that sets the source, for error messages.
        """

    @abstractmethod
    def draw(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Sample a noise sequence with the shape of a clip `[T, C, h, w]`."""
