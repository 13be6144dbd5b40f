"""Unsharp masking of clean frames with a wide blur.

    r = x - g * x;   m = g * [255 |r| > 10];   m clip(x + r / 2, 0, 1) + (1 - m) x

Here, x is the image, and g * x is x blurred with the Gaussian kernel g. The kernel has 51 taps and a standard deviation
of 8, which is OpenCV's default for this size.

Source: code of Wang et al., Real-ESRGAN, ICCVW 2021, arXiv 2107.10833 (BasicSR), with which RealBasicVSR sharpens its
ground-truth frames.
"""

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.clip_degradation.blur import reflected_indices
from datamodules.corruptions.clip_degradation.interface import ClipOperator

TAPS, DEVIATION = 51, 8.0


def unsharp_masked(image: Tensor, weight: float = 0.5, threshold: float = 10 / 255) -> Tensor:
    """Sharpen the parts of images that clearly differ from a blurred copy of the image.

    Args:
        image: images, `[..., C, H, W]`, in [0, 1], on any device.
        weight: factor by which the difference from the blurred copy is multiplied before it is added to the image.
        threshold: least absolute difference from the blurred copy. Pixels with a larger difference are sharpened,
            together with their neighbourhoods.
    """
    frames = image.flatten(0, -4) if image.ndim > 3 else image[None]
    residual = frames - _blur(frames)
    mask = _blur((residual.abs() > threshold).to(frames.dtype))
    sharp = (frames + weight * residual).clamp(0, 1)
    return (mask * sharp + (1 - mask) * frames).view_as(image)


def _blur(image: Tensor) -> Tensor:
    rows, columns = (blurring(size, image) for size in image.shape[2:])
    return rows @ image @ columns.T


def blurring(size: int, like: Tensor) -> Tensor:
    """Return the matrix, `[size, size]`, that blurs a line of pixels padded by reflection."""
    place = torch.arange(TAPS, dtype=torch.float64, device=like.device) - TAPS // 2
    tap = (-0.5 * (place / DEVIATION).square()).exp()
    source = reflected_indices(size, TAPS // 2, like.device).unfold(0, TAPS, 1)
    matrix = torch.zeros(size, size, dtype=torch.float64, device=like.device)
    return matrix.scatter_add_(1, source, (tap / tap.sum()).expand(size, -1)).to(like.dtype)


class UnsharpMask(ClipOperator):
    """Sharpen clean frames with `unsharp_masked` before they are degraded."""

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        return unsharp_masked(clip)
