"""Interface of clip degradation operators, and random walks of parameters over frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Range = tuple[float, float]


class ClipOperator(ABC):
    """A degradation that is applied to all frames of a clip at once.

    All random numbers come from the generator that is passed to `apply`.
    """

    def sizes(self, size: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size of frames after this operator, or None if the size is random."""
        return size

    @abstractmethod
    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        """Degrade a clip.

        Args:
            clip: frames `[T, C, H, W]` in floating point, on any device. White is 1. Values may lie outside [0, 1].
            random: random number generator of the parameters, on the CPU.
            end: height and width of frames at the end of the chain.

        Returns:
            The degraded frames, `[T, C, H', W']`, on the device of the clip.
        """


def walk(
    random: np.random.Generator, ends: Range, step: float, count: int, first: Range | None = None
) -> NDArray[np.float64]:
    """Sample a random walk over frames.

    The value changes by at most `step` from one frame to the next.

    Args:
        random: random number generator.
        ends: range of the parameter. The random walk is clamped to this range.
        step: largest change between consecutive frames.
        count: number of frames.
        first: range from which the first value is sampled uniformly. None means `ends`.

    Returns:
        Value of the parameter in each frame, `[count]`.
    """
    low, high = ends
    value = random.uniform(*(first or ends))
    values = [value]
    for change in random.uniform(-step, step, count - 1):
        value = min(max(value + change, low), high)
        values.append(value)
    return np.array(values)


def check_chances(chances: Sequence[float], name: str) -> None:
    """Reject probabilities that do not add up to 1."""
    if min(chances, default=-1.0) < 0 or abs(sum(chances) - 1) > 1e-6:
        raise ValueError(f"{name} must be probabilities that add up to 1, got {list(chances)}")
