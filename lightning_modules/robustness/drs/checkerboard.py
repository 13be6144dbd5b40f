"""Show networks for whole images half of an image, the black or the white squares of a checkerboard.

A half keeps one diagonal of every 2 x 2 block, the same in all channels. Everything here is a deterministic function
of the pixels that a half keeps; nothing of the others enters it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Layout = Literal["checkerboard", "official"]
Fill = Literal["maxpool_add", "gather_nearest", "gather_bilinear"]


def first_half(height: int, width: int, layout: Layout = "checkerboard", device: torch.device | None = None) -> Tensor:
    """Mark the pixels of the first half; the second has the others.

    Args:
        height: height of the image, even.
        width: width of the image, even.
        layout: `checkerboard` takes the pixels (i, j) with i + j even; `official` those with i + j odd from the third
            column on, as the authors' code does by accident and their checkpoints need.
        device: device of the mask.

    Returns:
        `[H, W]`, boolean.

    Raises:
        ValueError: if `height` or `width` is odd.
    """
    if height % 2 or width % 2:
        raise ValueError(f"image must have an even height and width to be halved, got {height} x {width}")
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    if layout == "official":
        column = column + (column >= 2)
    return (row + column) % 2 == 0


def gathered(image: Tensor, mask: Tensor) -> Tensor:
    """Move the kept pixels together, row by row.

    Args:
        image: `[B, C, H, W]`.
        mask: `[H, W]`, boolean, half of each row true.

    Returns:
        `[B, C, H, W/2]`.
    """
    columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : mask.shape[1] // 2]
    return image.gather(3, columns.expand(*image.shape[:2], -1, -1))


def max_added(image: Tensor, mask: Tensor) -> Tensor:
    """Add to every kept pixel the maximum of its block, in which the others count as 0; the others stay 0.

    Args:
        image: `[B, C, H, W]`.
        mask: `[H, W]`, boolean.
    """
    kept = image * mask
    greatest = F.interpolate(F.max_pool2d(kept, 2), scale_factor=2.0, mode="nearest")
    return kept + mask * greatest


def half(image: Tensor, mask: Tensor, fill: Fill) -> Tensor:
    """Give a half of each image, in the size of the whole.

    Args:
        image: `[B, C, H, W]`, usually noisy.
        mask: `[H, W]`, boolean: the pixels that the half keeps.
        fill: `maxpool_add`, see `max_added`, as the authors' code does on CIFAR-10; `gather_bilinear` moves the kept
            pixels together and stretches them to the whole width, as it does on ImageNet; `gather_nearest` repeats each
            of them.

    Returns:
        `[B, C, H, W]`.
    """
    if fill == "maxpool_add":
        return max_added(image, mask)
    mode = fill.removeprefix("gather_")
    return F.interpolate(gathered(image, mask), size=image.shape[2:], mode=mode)
