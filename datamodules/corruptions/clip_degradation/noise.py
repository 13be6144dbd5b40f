"""Gaussian and Poisson noise for video clips."""

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import ascending, at_least, within
from datamodules.corruptions.clip_degradation.interface import ClipOperator, Range, walk

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue for conversion to grey."""

STRENGTH_STEP = 0.005
"""Largest change of the strength of Poisson noise per frame."""


class RandomNoise(ClipOperator):
    """Add Gaussian or Poisson noise to a clip.

    All frames of a clip have the same kind of noise. The noise values are sampled independently for each frame.

    For Poisson noise, the expected count of a white pixel is `v`. Here, `v` is the number of different levels in the
    frame, rounded up to a power of two. The noise of the counts is multiplied by `strength`, as in RealBasicVSR's
    training. (In a later version of RealBasicVSR's library, `v` is instead the expected count of a single grey level,
    1/255 of white. The noise then changes a pixel by at most one or two grey levels.)

    Args:
        sigma: smallest and largest standard deviation of Gaussian noise, in 8-bit levels.
        sigma_step: largest change of `sigma` per frame.
        poisson: probability of Poisson noise.
        strength: smallest and largest factor by which Poisson noise is multiplied.
        grey: probability that the noise is the same in all channels.
    """

    def __init__(
        self,
        sigma: Range = (1.0, 30.0),
        sigma_step: float = 0.1,
        poisson: float = 0.5,
        strength: Range = (0.05, 3.0),
        grey: float = 0.4,
    ) -> None:
        ascending(0, sigma=sigma, strength=strength)
        at_least(0, sigma_step=sigma_step)
        within(0, 1, poisson=poisson, grey=grey)
        self.sigma = sigma
        self.sigma_step = sigma_step
        self.poisson = poisson
        self.strength = strength
        self.grey = grey

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        is_poisson, is_grey = random.random() < self.poisson, random.random() < self.grey
        if not is_poisson:
            sigma = walk(random, self.sigma, self.sigma_step, len(clip))
            shape = (len(clip), 1 if is_grey else clip.shape[1], *clip.shape[2:])
            noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).to(clip)
            return clip + noise * _of_frames(sigma / 255, clip)
        strength = walk(random, self.strength, STRENGTH_STEP, len(clip))
        return clip + poisson_noise(clip, random, is_grey) * _of_frames(strength, clip)


def poisson_noise(clip: Tensor, random: np.random.Generator, grey: bool) -> Tensor:
    """Sample the Poisson noise of an 8-bit clip, `[T, C, H, W]`, or `[T, 1, H, W]` if the noise is grey."""
    light = clip
    if grey and clip.shape[1] == 3:
        light = (clip * clip.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    levels = light.mul(255).round().clamp(0, 255)
    counts = _of_frames(counts_of_white(levels), clip)
    drawn = torch.from_numpy(random.poisson((levels / 255 * counts).double().cpu().numpy())).to(clip)
    return drawn / counts - levels / 255


def counts_of_white(levels: Tensor) -> Tensor:
    """Return the number of distinct levels in each frame, rounded up to a power of two, as a tensor `[T]`."""
    seen = torch.zeros(len(levels), 256, device=levels.device)
    seen.scatter_(1, levels.flatten(1).long(), 1.0)
    return 2 ** seen.sum(dim=1).log2().ceil()


def _of_frames(values: np.ndarray | Tensor, clip: Tensor) -> Tensor:
    return torch.as_tensor(values).to(clip)[:, None, None, None]
