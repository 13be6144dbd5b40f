"""Synthetic structured noise. It can replace noise that is extracted from videos."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from datamodules.arguments import ascending, one_of
from datamodules.corruptions.clip_degradation.interface import Range
from datamodules.video.clip_noise import ClipNoise

Family = Literal["stripes", "waves"]
GRAIN, BLOTCH = 0.8, 2.5
"""Standard deviations of the Gaussian filters that turn white noise into grain and blotches, in pixels."""
FREQUENCIES = (0.08, 0.25)
"""Smallest and largest spatial frequency, in waves per pixel."""


class DrawnNoise(ClipNoise):
    """Synthetic noise with the clip's mean in each channel, and without any other image content.

    `stripes` consist of rows of constant value plus fine grain. Rows and grain are sampled independently for each
    frame. `waves` consist of slanted, drifting waves plus coarse static blotches. They are a second kind of noise,
    which can be used for testing.

    Args:
        family: kind of noise, `stripes` or `waves`.
        deviation: smallest and largest standard deviation of a noise sequence, for frames in [0, 1].
    """

    def __init__(self, family: Family = "stripes", deviation: Range = (0.05, 0.15)) -> None:
        one_of(get_args(Family), family=family)
        ascending(0, deviation=deviation)
        self.pattern: Callable[..., NDArray[np.float64]] = stripe_noise if family == "stripes" else waves
        self.deviation = deviation

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Accept all clips, because noise can be generated for any shape."""

    def draw(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        deviation = random.uniform(*self.deviation) * 255
        mean = clip.mean(axis=(0, 2, 3), keepdims=True)
        return (mean + deviation * self.pattern(clip.shape, random)).round().clip(0, 255).astype(np.uint8)


def stripe_noise(shape: tuple[int, int, int, int], random: np.random.Generator) -> NDArray[np.float64]:
    """Sample noise that consists of rows of constant value plus fine grain.

    The rows are the same in all channels. The noise has mean 0 and variance 1.
    """
    time, channels, height, width = shape
    rows = random.standard_normal((time, 1, height, 1))
    return (rows + smooth_noise(random.standard_normal((time, channels, height, width)), GRAIN)) / np.sqrt(2)


def waves(shape: tuple[int, int, int, int], random: np.random.Generator) -> NDArray[np.float64]:
    """Sample noise with mean 0 and variance 1 that consists of slanted, drifting waves and coarse static blotches."""
    time, channels, height, width = shape
    frequency, direction = random.uniform(*FREQUENCIES), random.uniform(0.2, 0.8) * np.pi / 2
    phase, drift = random.uniform(0, 2 * np.pi), random.uniform(0.3, 1.5)
    row, column = np.arange(height)[:, None], np.arange(width)
    place = 2 * np.pi * frequency * (row * np.sin(direction) + column * np.cos(direction))
    wave = np.sqrt(2) * np.sin(place + phase + drift * np.arange(time)[:, None, None, None])
    return (wave + smooth_noise(random.standard_normal((1, channels, height, width)), BLOTCH)) / np.sqrt(2)


def smooth_noise(white: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Smooth white noise `[T, C, H, W]` along rows and columns, with periodic borders and unchanged variance."""
    impulse = np.zeros(int(8 * deviation) * 2 + 1)
    impulse[len(impulse) // 2] = 1
    kept = float(np.square(gaussian_filter1d(impulse, deviation)).sum())  # fraction of variance that remains, per axis
    return gaussian_filter(white, (0, 0, deviation, deviation), mode="wrap") / kept
