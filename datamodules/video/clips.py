"""Clips of one split, whose frames are read when they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["training", "validation", "test"]


class Frames(Protocol):
    """The frames of one clip, wherever they are kept."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """T, C, H and W, known without reading all."""
        ...

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        """Read consecutive frames, `[count, C, H, W]`."""
        ...


class ArrayFrames:
    """Frames in memory.

    Args:
        values: `[T, C, H, W]`.
    """

    def __init__(self, values: NDArray[np.uint8]) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int, int, int]:
        time, channels, height, width = self.values.shape
        return time, channels, height, width

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        return self.values[first : first + count]


@dataclass(frozen=True)
class Clips:
    """The clips of one split, which may differ in length and size.

    Args:
        names: names of the clips, `[N]`.
        clean: ground truth; None where there is none.
        noisy: degraded clips of the same lengths, smaller by `scale`, where the set has them.
        scale: pixels of a clean frame for one of the noisy one, along each axis.
        rates: frames a second of each clip, of video files.
        in_memory: whether frames are at hand, so that loader processes would not help.

    Raises:
        ValueError: if there is no clip, or a clean clip and its noisy one do not fit, naming it.
    """

    names: Sequence[str]
    clean: Sequence[Frames] | None
    noisy: Sequence[Frames] | None = None
    scale: int = 1
    rates: Sequence[float] | None = None
    in_memory: bool = False

    def __post_init__(self) -> None:
        if not self.stored:
            raise ValueError("a set of clips is empty")
        for name, clean, noisy in zip(self.names, self.clean or (), self.noisy or (), strict=False):
            time, channels, height, width = noisy.shape
            if clean.shape != (time, channels, height * self.scale, width * self.scale):
                raise ValueError(
                    f"{name}: the clean clip has the shape {list(clean.shape)}, the degraded one {list(noisy.shape)}; "
                    f"frames and channels must be as many, and sides {self.scale} times as long"
                )

    @property
    def stored(self) -> Sequence[Frames]:
        """The clips that are there for certain: the clean ones, or the noisy ones without them."""
        return self.clean if self.clean is not None else self.noisy or []


class ClipSet(ABC):
    """A set of clips: a plain object that reads its splits, and knows nothing of batches."""

    channels: int
    """Channels of a frame: 1 of grey, 3 of colour."""
    scale: int = 1
    """Pixels of a clean frame for one of its noisy one, along each axis, where the set has both."""
    seed: int | None = None
    """Random seed of what is drawn; None takes that of the DataModule."""

    @abstractmethod
    def clips(self, split: Split) -> Clips:
        """Find the clips of a split; a set without splits gives all for any.

        Raises:
            FileNotFoundError: if files are missing, saying what was expected where.
            ValueError: if a file is damaged or the set has no such split.
        """
