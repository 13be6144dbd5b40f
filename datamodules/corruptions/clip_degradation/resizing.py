"""Resizing of all frames of a clip at once, by matrix products.

The modes `bilinear`, `bicubic` and `area` give the same results as OpenCV's linear, cubic and area modes. Only `area`
avoids aliasing.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import ascending, at_least, one_of
from datamodules.corruptions.clip_degradation.interface import ClipOperator, Range, check_chances, walk

Mode = Literal["bilinear", "area", "bicubic"]
MODES: tuple[Mode, ...] = get_args(Mode)
BICUBIC = -0.75
"""Parameter of the cubic kernel in OpenCV and PyTorch."""


def resampling(size: int, sizes: NDArray[np.int64], mode: Mode) -> Tensor:
    """Return the matrices that resample a line of pixels to new lengths, `[T, longest, size]`, float64.

    In each matrix, the rows beyond its new length are zero.

    Args:
        size: length of the line in pixels.
        sizes: new lengths, `[T]`.
        mode: interpolation mode. `area` weights old pixels by their overlap with the new pixel. `bilinear` and
            `bicubic` interpolate at the centre of the new pixel; at the border, they replicate pixels.
    """
    wanted = torch.as_tensor(sizes, dtype=torch.float64)[:, None]
    at = torch.arange(int(wanted.max()), dtype=torch.float64)[None]
    step = size / wanted
    source = torch.arange(size, dtype=torch.float64)
    if mode == "area":
        begin, end = (at * step)[..., None], ((at + 1) * step)[..., None]
        covered = torch.minimum(end, source + 1) - torch.maximum(begin, source)
        matrix = covered.clamp(min=0) / step[..., None]
    else:
        middle = (at + 0.5) * step - 0.5
        below = middle.floor()
        part = middle - below
        if mode == "bilinear":
            weights = {0: 1 - part, 1: part}
        else:
            weights = {tap: _cubic((part - tap).abs()) for tap in (-1, 0, 1, 2)}
        matrix = torch.zeros(*middle.shape, size, dtype=torch.float64)
        for tap, weight in weights.items():
            place = (below + tap).clamp(0, size - 1).long()
            matrix.scatter_add_(2, place[..., None], weight[..., None])
    return matrix * (at < wanted)[..., None]


def _cubic(distance: Tensor) -> Tensor:
    a = BICUBIC
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))


def resize_frames(clip: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """Resize all frames `[T, C, H, W]` to the same size."""
    rows, columns = (
        resampling(own, np.array([new]), mode).to(clip)[0] for own, new in zip(clip.shape[2:], size, strict=True)
    )
    return rows @ clip @ columns.T


class RandomResize(ClipOperator):
    """Resize each frame by its own random factor, then resize all frames to the size of the first frame.

    The factor follows a random walk over the frames. In the published code, frames keep different sizes until the next
    codec resizes them to the size of the first frame. Here, they are resized to this size immediately.

    Args:
        up: probability that the first frame is upsampled.
        down: probability that the first frame is downsampled. Otherwise, its size is not changed.
        scale: smallest and largest factor.
        step: largest change of the factor per frame.
        even: whether to round height and width down to even numbers, as codecs require.
    """

    def __init__(
        self,
        up: float = 0.2,
        down: float = 0.7,
        scale: Range = (0.15, 1.5),
        step: float = 0.015,
        even: bool = True,
    ) -> None:
        check_chances([up, down, 1 - up - down], "up and down")
        ascending(0.01, scale=scale)
        at_least(0, step=step)
        self.up = up
        self.down = down
        self.scale = scale
        self.step = step
        self.even = even

    def sizes(self, size: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
        return None

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        mode = MODES[random.integers(len(MODES))]
        way = random.random()
        low, high = self.scale
        first = (1.0, high) if way < self.up else (low, 1.0) if way < self.up + self.down else (1.0, 1.0)
        factors = walk(random, self.scale, self.step, len(clip), first)
        multiple = 2 if self.even else 1
        for axis in (2, 3):
            own = clip.shape[axis]
            sizes = np.maximum((own * factors).astype(np.int64) // multiple * multiple, multiple)
            clip = _each_resized(clip, axis, sizes, mode)
        return clip


def _each_resized(clip: Tensor, axis: int, sizes: NDArray[np.int64], mode: Mode) -> Tensor:
    """Resize one axis of each frame t to the length `sizes[t]`, and then to `sizes[0]`, that of the first frame."""
    matrix = resampling(clip.shape[axis], sizes, mode)
    together = torch.zeros(len(sizes), int(sizes[0]), matrix.shape[1], dtype=matrix.dtype)
    for own in np.unique(sizes):
        together[torch.from_numpy(sizes == own), :, :own] = resampling(int(own), sizes[:1], "bilinear")[0]
    matrix = (together @ matrix).to(clip)[:, None]
    return matrix @ clip if axis == 2 else clip @ matrix.transpose(2, 3)


class ResizeToEnd(ClipOperator):
    """Resize frames to the final size of the chain.

    Args:
        modes: interpolation modes. One mode is sampled per clip.
    """

    def __init__(self, modes: Sequence[Mode] = MODES) -> None:
        for mode in modes:
            one_of(MODES, modes=mode)
        self.modes = list(modes)

    def sizes(self, size: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
        return end

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        return resize_frames(clip, end, self.modes[random.integers(len(self.modes))])
