"""Preprocess images for the networks, and resize estimated normals to the original size of the images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.pixel_ranges import to_unit
from lightning_modules.diffusion.stable_normal.angular_error import unit


def preprocess_images(image: Tensor, resolution: int | None, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad images in the same way as Marigold.

    Args:
        image: images, `[B, 3, H, W]`.
        resolution: length, in pixels, to which the longer side of images is resized; None keeps the size of images.
        multiple: number by which the padded height and width are divisible; padding repeats the last row and column.

    Returns:
        The processed images, and their height and width before padding.
    """
    height, width = image.shape[2:]
    if resolution is not None:
        height, width = (side * resolution // max(image.shape[2:]) for side in (height, width))
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate"), (height, width)


def postprocess_normals(normal: Tensor, filled: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Normalise normals to unit length, remove their padding, and resize them.

    Args:
        normal: normals of padded images, `[B, 3, H', W']`.
        filled: height and width before padding, from `preprocess_images`.
        size: height and width of the result, H, W.
    """
    normal = unit(normal)[..., : filled[0], : filled[1]]
    if tuple(size) != tuple(filled):
        normal = unit(F.interpolate(normal, list(size), mode="bilinear"))
    return normal


def render_normals(normal: Tensor) -> Tensor:
    """Render normals, `[B, 3, H, W]`, as RGB colours in [0, 1]; pixels without a normal are black."""
    return torch.where(normal.norm(dim=1, keepdim=True) > 0, to_unit(normal), 0)
