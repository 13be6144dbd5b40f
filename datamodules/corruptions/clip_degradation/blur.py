"""Blur of video clips, with one kernel per frame."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import ascending, at_least, one_of, within
from datamodules.corruptions.clip_degradation import kernels
from datamodules.corruptions.clip_degradation.interface import ClipOperator, Range, check_chances, walk

PROBABILITIES = {
    **{"iso": 0.405, "aniso": 0.225, "generalized_iso": 0.108, "generalized_aniso": 0.027},
    **{"plateau_iso": 0.108, "plateau_aniso": 0.027, "sinc": 0.1},
}
LARGE = 13
"""Sinc kernels of at least this size, in pixels, may have lower cut-off frequencies than smaller kernels."""
ROTATION_STEP, CUTOFF_STEP = 0.31416, 0.0628
"""Largest changes per frame of the rotation angle, in radians, and of the cut-off frequency."""
GENERALIZED, PLATEAU = ((0.5, 4.0), 0.05), ((1.0, 2.0), 0.1)
"""Smallest and largest exponent of these kernels, and its largest change per frame."""


class RandomBlur(ClipOperator):
    """Blur each frame with a kernel.

    All kernels of a clip have the same family and size. Their parameters follow a random walk over the frames.

    The first value of each parameter is sampled uniformly from its range. Then the value changes by at most one step
    per frame. The published code samples a new `beta` for each frame, between the previous frame's value and 1. Here,
    `beta` follows a random walk, as in the published settings.

    Args:
        families: dictionary that maps each kernel family to its probability.
        kernel_sizes: odd kernel sizes in pixels. One size is sampled per clip.
        sigma: smallest and largest standard deviation of the kernel, along each of its axes.
        sigma_step: largest change of the standard deviations per frame.
        cutoff: smallest and largest cut-off frequency of sinc filters, in radians per pixel. None means pi/3 to pi for
            kernels below 13 pixels, and pi/5 to pi for kernels of 13 pixels or more.
        probability: probability that a clip is blurred.
    """

    def __init__(
        self,
        families: Mapping[str, float] = PROBABILITIES,
        kernel_sizes: Sequence[int] = (7, 9, 11, 13, 15, 17, 19, 21),
        sigma: Range = (0.2, 3.0),
        sigma_step: float = 0.02,
        cutoff: Range | None = None,
        probability: float = 1.0,
    ) -> None:
        for family in families:
            one_of(kernels.FAMILIES, families=family)
        check_chances(list(families.values()), "families")
        for size in kernel_sizes:
            if size < 1 or size % 2 == 0:
                raise ValueError(f"kernel_sizes must be odd, got {size}")
        ascending(0.01, sigma=sigma)
        if cutoff is not None:
            ascending(0, cutoff=cutoff)
        at_least(0, sigma_step=sigma_step)
        within(0, 1, probability=probability)
        self.families = dict(families)
        self.kernel_sizes = list(kernel_sizes)
        self.sigma = sigma
        self.sigma_step = sigma_step
        self.cutoff = cutoff
        self.probability = probability

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        if random.random() >= self.probability:
            return clip
        return filter_frames(clip, self.kernels(random, len(clip)).to(clip))

    def kernels(self, random: np.random.Generator, count: int) -> Tensor:
        """Sample a kernel for each frame, `[count, size, size]`, float64."""
        chances = np.array(list(self.families.values()))
        family = list(self.families)[random.choice(len(chances), p=chances / chances.sum())]
        size = self.kernel_sizes[random.integers(len(self.kernel_sizes))]

        def drawn(ends: Range, step: float) -> Tensor:
            return torch.from_numpy(walk(random, ends, step, count))

        if family == "sinc":
            low = math.pi / 3 if size < LARGE else math.pi / 5
            return kernels.sinc(size, drawn(self.cutoff or (low, math.pi), CUTOFF_STEP))
        sigma_x = drawn(self.sigma, self.sigma_step)
        sigma_y, rotation = sigma_x, torch.zeros_like(sigma_x)
        if family.endswith("aniso"):
            sigma_y = drawn(self.sigma, self.sigma_step)
            rotation = drawn((-math.pi, math.pi), ROTATION_STEP)
        if family.startswith("generalized"):
            return kernels.generalized_gaussian_kernels(size, sigma_x, sigma_y, rotation, drawn(*GENERALIZED))
        if family.startswith("plateau"):
            return kernels.plateau(size, sigma_x, sigma_y, rotation, drawn(*PLATEAU))
        return kernels.gaussian(size, sigma_x, sigma_y, rotation)


def filter_frames(clip: Tensor, kernel: Tensor) -> Tensor:
    """Correlate the frames of `clip`, `[T, C, H, W]`, with their kernels, `[T, k, k]`, after padding by reflection."""
    (height, width), reach = clip.shape[2:], kernel.shape[-1] // 2
    wide = clip[:, :, reflected_indices(height, reach, clip.device)][..., reflected_indices(width, reach, clip.device)]
    size = wide.shape[2:]
    spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel, s=size)[:, None].conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width].contiguous()


def reflected_indices(size: int, reach: int, device: torch.device) -> Tensor:
    """Return the indices that extend a line of `size` pixels by `reach` reflected pixels on each side."""
    if size == 1:
        return torch.zeros(1 + 2 * reach, dtype=torch.int64, device=device)
    place = torch.arange(-reach, size + reach, device=device) % (2 * size - 2)
    return torch.minimum(place, 2 * size - 2 - place)
