"""Interface of video datasets, and the clips of one split. Frames of clips are read on access."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class WindowSampling:
    """How training windows are cut from clips.

    Args:
        num_frames: number of frames that are read per training clip.
        mirrored: whether each training clip is followed by its frames in reverse order. This doubles the number of
            frames.
        size: height and width of a clean training clip, in pixels.
        per_clip: number of training windows per clip and epoch.
        augmentation: whether to randomly flip and transpose training clips. The 8 possible orientations are equally
            probable.
    """

    num_frames: int = 15
    mirrored: bool = False
    size: int = 256
    per_clip: int = 1
    augmentation: bool = True

    def __post_init__(self) -> None:
        for name in ("num_frames", "size", "per_clip"):
            at_least(1, **{f"windows.{name}": getattr(self, name)})


class ClipFrames(Protocol):
    """Interface of the frames of one clip. The frames are in memory or in files."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape T, C, H, W of the clip. It is known without reading all frames."""
        ...

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        """Read consecutive frames, `[count, C, H, W]`."""
        ...


class ArrayFrames:
    """Frames in memory.

    Args:
        values: frames `[T, C, H, W]`.
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
    """The clips of one split. The clips may have different lengths and sizes.

    Args:
        names: names of the clips, `[N]`.
        clean: clean clips. None if there is no ground truth.
        noisy: degraded clips of the same lengths. Their frames have the size of the clean frames divided by `scale`.
            None if there are no degraded clips.
        scale: number of clean pixels per noisy pixel, along each axis.
        rates: frame rate of each clip in frames per second, for video files.
        in_memory: whether frames are in memory. If so, DataLoader workers do not help.
    """

    names: Sequence[str]
    clean: Sequence[ClipFrames] | None
    noisy: Sequence[ClipFrames] | None = None
    scale: int = 1
    rates: Sequence[float] | None = None
    in_memory: bool = False

    def __post_init__(self) -> None:
        if not self.stored:
            raise ValueError("a dataset has no clips")
        for name, clean, noisy in zip(self.names, self.clean or (), self.noisy or (), strict=False):
            time, channels, height, width = noisy.shape
            if clean.shape != (time, channels, height * self.scale, width * self.scale):
                raise ValueError(
                    f"{name}: the clean clip has the shape {list(clean.shape)}, the degraded one {list(noisy.shape)}; "
                    f"frames and channels must be equal, and clean sides {self.scale} times as long"
                )

    @property
    def stored(self) -> Sequence[ClipFrames]:
        """The clean clips, or the noisy clips if there are no clean clips."""
        return self.clean if self.clean is not None else self.noisy or []


class ClipSet(ABC):
    """Interface of datasets of clips.

    A dataset reads its splits, and its DataModule decides which clips form a batch.
    """

    channels: int
    """Number of channels of a frame: 1 for grey, 3 for colour."""
    scale: int = 1
    """Number of clean pixels per noisy pixel along each axis, if the dataset has clean and noisy clips."""
    seed: int | None = None
    """Seed of generated data. None means the seed of the DataModule."""

    @abstractmethod
    def clips(self, split: Split) -> Clips:
        """Return the clips of a split. A dataset without splits returns all its clips for every split.

        Raises:
            FileNotFoundError: if files are missing. The message names the expected path.
            ValueError: if a file is damaged, or if the dataset does not have this split.
        """
