"""Split an image into two checkerboard halves, and expand each half to a full-size input of a network.

A half contains one diagonal of every 2 x 2 block of pixels, in all channels. All functions in this file are
deterministic, and their results depend only on the pixels of the half.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Layout = Literal["checkerboard", "official"]
Fill = Literal["maxpool_add", "gather_nearest", "gather_bilinear"]


@dataclass(frozen=True)
class Partition:
    """How an image is split into halves, and how a half is expanded to a full-size image.

    Args:
        fill: method of expanding a half: `maxpool_add`, `gather_nearest` or `gather_bilinear`; see `half`.
        layout: layout of the halves: `checkerboard`, or `official` for the authors' checkpoints; see `first_half`.
    """

    fill: Fill = "maxpool_add"
    layout: Layout = "checkerboard"


def first_half(height: int, width: int, layout: Layout = "checkerboard", device: torch.device | None = None) -> Tensor:
    """Compute the mask of the pixels in the first half.

    The second half consists of the remaining pixels.

    Args:
        height: height of the image; must be even.
        width: width of the image; must be even.
        layout: layout of the first half: `checkerboard` selects the pixels (i, j) with i + j even. `official` selects
            the pixels with i + j even in the first two columns, and the pixels with i + j odd from the third column on.
            The authors' code uses this layout by accident, and the authors' checkpoints therefore need it.
        device: device of the mask.

    Returns:
        Mask `[H, W]`, bool.

    Raises:
        ValueError: if `height` or `width` is odd.
    """
    if height % 2 or width % 2:
        raise ValueError(f"image must have an even height and width, got {height} x {width}")
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    if layout == "official":
        column = column + (column >= 2)
    return (row + column) % 2 == 0


def gather_kept_pixels(image: Tensor, mask: Tensor) -> Tensor:
    """Concatenate the kept pixels of each row.

    Args:
        image: `[B, C, H, W]`.
        mask: mask of the kept pixels, `[H, W]`, bool; it must be true for half of the pixels of each row.

    Returns:
        `[B, C, H, W/2]`.
    """
    columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : mask.shape[1] // 2]
    return image.gather(3, columns.expand(*image.shape[:2], -1, -1))


def max_added(image: Tensor, mask: Tensor) -> Tensor:
    """Set the pixels outside a mask to zero, then add the maximum of each 2 x 2 block to the kept pixels of the block.

    Args:
        image: `[B, C, H, W]`.
        mask: mask of the kept pixels, `[H, W]`, bool.
    """
    kept = image * mask
    greatest = F.interpolate(F.max_pool2d(kept, 2), scale_factor=2.0, mode="nearest")
    return kept + mask * greatest


def half(image: Tensor, mask: Tensor, fill: Fill) -> Tensor:
    """Expand one half of each image to the full size of the image.

    Args:
        image: images `[B, C, H, W]`, usually noisy.
        mask: mask of the pixels in the half, `[H, W]`, bool.
        fill: method of expansion. `maxpool_add` calls `max_added`, as in the authors' code for CIFAR-10.
            `gather_bilinear` concatenates the kept pixels of each row and resizes them to full width by bilinear
            interpolation, as in the authors' code for ImageNet. `gather_nearest` does the same by nearest-neighbour
            interpolation.

    Returns:
        `[B, C, H, W]`.
    """
    if fill == "maxpool_add":
        return max_added(image, mask)
    mode = fill.removeprefix("gather_")
    return F.interpolate(gather_kept_pixels(image, mask), size=image.shape[2:], mode=mode)
