"""The interface of operators that degrade clips, and parameters that walk from frame to frame."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Range = tuple[float, float]


class ClipOperator(ABC):
    """A degradation of all frames of a clip at once; what is drawn follows from the generator alone."""

    def sizes(self, size: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
        """Say which size frames have afterwards; None where it is drawn."""
        return size

    @abstractmethod
    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        """Degrade a clip.

        Args:
            clip: `[T, C, H, W]`, floating point, 1 for white, not clipped; on any device.
            random: draws the parameters, on the host.
            end: height and width that frames have at the end of the chain.

        Returns:
            `[T, C, H', W']`, where the clip is.
        """


def walk(
    random: np.random.Generator, ends: Range, step: float, count: int, first: Range | None = None
) -> NDArray[np.float64]:
    """Draw a parameter of the first frame, and let it walk by at most a step from frame to frame.

    Args:
        random: what draws.
        ends: the range, at whose ends the walk stays.
        step: greatest difference between two frames.
        count: frames.
        first: the range where the first value is uniform; None takes the whole one.

    Returns:
        `[count]`.
    """
    low, high = ends
    value = random.uniform(*(first or ends))
    values = [value]
    for change in random.uniform(-step, step, count - 1):
        value = min(max(value + change, low), high)
        values.append(value)
    return np.array(values)


def check_range(ends: Sequence[float], least: float, name: str) -> None:
    """Refuse a range whose ends are in the wrong order or too small.

    Raises:
        ValueError: names the argument.
    """
    if len(ends) != 2 or not least <= ends[0] <= ends[1]:
        raise ValueError(f"{name} must be two numbers of at least {least:g}, the lower first, got {list(ends)}")


def check_chances(chances: Sequence[float], name: str) -> None:
    """Refuse probabilities that do not add up to 1.

    Raises:
        ValueError: names the argument.
    """
    if min(chances, default=-1.0) < 0 or abs(sum(chances) - 1) > 1e-6:
        raise ValueError(f"{name} must be probabilities that add up to 1, got {list(chances)}")
