"""Find windows in videos that contain only noise, using the mean and the variance of each frame.

Let v_t and m_t be the variance and the mean of frame t in a window of S x S pixels, in grey levels. A window is kept if

    v_t < max_variance and m_t > min_mean in every frame,
    Var_t(v_t) <= max_variance_change and Var_t(m_t) <= max_mean_change.

Variances are computed without Bessel's correction. The windows form a grid of adjacent squares. As in the authors'
code, windows that end exactly at the border of the frame are omitted.

Source: Song et al., NegVSR, AAAI 2024, arXiv 2305.14669, and its code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.arguments import at_least
from datamodules.files.png import write_png
from datamodules.video.clips import ClipFrames


@dataclass(frozen=True)
class WindowTest:
    """Criterion for windows that contain only noise. Variances and means refer to grey levels from 0 to 255.

    Args:
        size: height and width of a window, in pixels.
        max_variance: exclusive upper bound of the variance of each frame.
        min_mean: exclusive lower bound of the mean of each frame.
        max_variance_change: upper bound of Var_t(v_t), where v_t is the variance of frame t. It limits changes of the
            variance over the frames.
        max_mean_change: upper bound of Var_t(m_t), where m_t is the mean of frame t. It limits changes of the mean over
            the frames.
    """

    size: int = 64
    max_variance: float = 50.0
    min_mean: float = 0.0
    max_variance_change: float = 50.0
    max_mean_change: float = 50.0

    def __post_init__(self) -> None:
        at_least(1, size=self.size)
        at_least(0, max_variance=self.max_variance, min_mean=self.min_mean)
        at_least(0, max_variance_change=self.max_variance_change, max_mean_change=self.max_mean_change)


def num_windows(length: int, size: int) -> int:
    """Return the number of windows along an axis, not counting a window that ends exactly at the end of the axis."""
    return len(range(0, length - size, size))


def grey_levels(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a frame `[C, H, W]` to rounded luma `[H, W]`."""
    if len(frame) == 1:
        return frame[0]
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).convert("L"))


def noise_windows(
    clip: ClipFrames, test: WindowTest, first: int = 0, count: int | None = None
) -> list[tuple[int, int]]:
    """Find those windows of a clip that contain only noise in all frames.

    Return the row and column of the first pixel of each window.

    Frames are read one at a time, until no window remains. In each frame, only the remaining windows are measured.
    """
    count, size = clip.shape[0] - first if count is None else count, test.size
    rows, columns = (num_windows(length, size) for length in clip.shape[2:])
    left = np.argwhere(np.ones((rows, columns), dtype=bool))
    moments = np.empty((2, 0, len(left)))
    for number in range(first, first + count):
        if not len(left):
            return []
        grey = grey_levels(clip.read(number, 1)[0])[: rows * size, : columns * size]
        windows = grey.reshape(rows, size, columns, size)[left[:, 0], :, left[:, 1]]
        measured = np.stack([windows.var(axis=(1, 2)), windows.mean(axis=(1, 2))])
        kept = (measured[0] < test.max_variance) & (measured[1] > test.min_mean)
        left, moments = left[kept], np.concatenate([moments, measured[:, None]], axis=1)[..., kept]
    changes = moments.var(axis=1)
    kept = (changes[0] <= test.max_variance_change) & (changes[1] <= test.max_mean_change)
    return [(int(row) * size, int(column) * size) for row, column in left[kept]]


def write_windows(
    name: str, clip: ClipFrames, library: Path, test: WindowTest, frames: int | None = None
) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Write a clip's noise windows as sequences of frames: sequence k to `<library>/<name>_<k>/00000000.png` and so on.

    Args:
        name: name of the clip.
        clip: frames of the clip. They are read twice, one frame at a time.
        library: folder of the library.
        test: criterion for windows that contain only noise.
        frames: number of frames of a sequence. The clip is split into parts of this length, and the remainder is
            dropped. None means the whole clip.

    Yields:
        The folder of each sequence, and its first, middle and last frame, `[3, C, S, S]`.
    """
    length = clip.shape[0] if frames is None else frames
    if clip.shape[0] < length:
        raise ValueError(f"{name} has {clip.shape[0]} frames, fewer than the {length} of a sequence")
    written = 0
    for first in range(0, clip.shape[0] - length + 1, length):
        corners = noise_windows(clip, test, first, length)
        folders = [library / f"{name}_{written + number}" for number in range(len(corners))]
        written += len(corners)
        shown: list[list[NDArray[np.uint8]]] = [[] for _ in corners]
        for number in range(length if corners else 0):
            frame = clip.read(first + number, 1)[0]
            for place, (row, column) in enumerate(corners):
                window = np.ascontiguousarray(frame[:, row : row + test.size, column : column + test.size])
                write_png(folders[place] / f"{number:08d}.png", window, f"{name}-{first + number}-{row}-{column}")
                if number in (0, length // 2, length - 1):
                    shown[place].append(window)
        for folder, windows in zip(folders, shown, strict=True):
            yield folder, np.stack([windows[0], windows[len(windows) // 2], windows[-1]])
