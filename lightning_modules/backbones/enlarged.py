"""Enlarge images by interpolation."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def enlarged(image: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge images `[B, C, h, w]` by bicubic interpolation, which overshoots, to `[B, C, H, W]` of the size H, W."""
    size = tuple(size)
    return image if image.shape[2:] == size else F.interpolate(image, size, mode="bicubic", align_corners=False)


def times_larger(image: Tensor, factor: int) -> Tensor:
    """Enlarge images to sides that are `factor` times as long."""
    return enlarged(image, [factor * side for side in image.shape[2:]])
