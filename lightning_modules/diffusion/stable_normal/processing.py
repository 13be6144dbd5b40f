"""Images as the networks take them, and normals in the images' own size again."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.diffusion.stable_normal.angular_error import unit


def processed(image: Tensor, resolution: int | None, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Resize images and fill them up, as Marigold does.

    Args:
        image: `[B, 3, H, W]`.
        resolution: of the longer side, in pixels, whether that is larger or smaller; None leaves the size.
        multiple: that height and width become multiples of, by repeating the last row and column.

    Returns:
        The images, and height and width before they were filled up.
    """
    height, width = image.shape[2:]
    if resolution is not None:
        height, width = (side * resolution // max(image.shape[2:]) for side in (height, width))
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate"), (height, width)


def unprocessed(normal: Tensor, filled: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Bring normals to unit length, cut off what images were filled up by, and resize.

    Args:
        normal: `[B, 3, H', W']`.
        filled: height and width before images were filled up.
        size: H, W of the result.
    """
    normal = unit(normal)[..., : filled[0], : filled[1]]
    if tuple(size) != tuple(filled):
        normal = unit(F.interpolate(normal, list(size), mode="bilinear"))
    return normal


def rendered(normal: Tensor) -> Tensor:
    """Show normals `[B, 3, H, W]` as colours in [0, 1], x, y, z in red, green and blue; black where there is none."""
    return torch.where(normal.norm(dim=1, keepdim=True) > 0, (normal + 1) / 2, 0)
