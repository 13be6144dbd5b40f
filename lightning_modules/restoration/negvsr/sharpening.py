"""Unsharp masks of frames, as targets of restoration."""

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 25
DEVIATION = 8.0
"""In pixels: what OpenCV takes for 51 of them."""
WEIGHT = 0.5
THRESHOLD = 10 / 255


def blurred(frames: Tensor) -> Tensor:
    """Blur frames `[N, C, H, W]` by a Gaussian kernel of 51 x 51 pixels, mirrored at the borders."""
    taps = torch.arange(-REACH, REACH + 1, device=frames.device, dtype=frames.dtype)
    kernel = (-taps.square() / (2 * DEVIATION**2)).exp()
    kernel = (kernel / kernel.sum()).expand(frames.shape[1], 1, 1, -1)
    wide = F.pad(frames, (REACH, REACH, REACH, REACH), mode="reflect")
    rows = F.conv2d(wide, kernel, groups=frames.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=frames.shape[1])


def sharpened(clip: Tensor) -> Tensor:
    """Sharpen clips where they differ from their blurred selves by more than 10 of 255 levels, with soft borders.

    Args:
        clip: `[B, T, C, H, W]` in [0, 1].

    Returns:
        The same shape, in [0, 1].

    Raises:
        ValueError: if frames have fewer than 26 pixels a side.
    """
    if min(clip.shape[3:]) <= REACH:
        raise ValueError(f"frames must have more than {REACH} pixels a side to be sharpened, got {list(clip.shape[3:])}")
    frames = clip.flatten(0, 1)
    residue = frames - blurred(frames)
    share = blurred((residue.abs() > THRESHOLD).to(frames.dtype))
    sharp = (frames + WEIGHT * residue).clamp(0, 1)
    return (share * sharp + (1 - share) * frames).view_as(clip)
