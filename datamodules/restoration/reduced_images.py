"""Images paired with low-resolution copies, for super-resolution."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from datamodules.arguments import at_least
from datamodules.restoration.images import Images, PairSet, Split


def downsample_bicubic(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Downsample an image in the same way as MATLAB's `imresize`: antialiased bicubic kernel, mirrored borders.

    Args:
        image: image `[C, H, W]` of integers, with height and width divisible by the factor.
        factor: number of image pixels per downsampled pixel, along each axis.

    Returns:
        Downsampled image `[C, H / factor, W / factor]`, rounded to integers of the image's dtype.
    """
    reach = 2 * factor  # reach of the kernel. Mirror borders, because PyTorch would renormalise the weights there.
    mirrored = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    wide = torch.from_numpy(mirrored.astype(np.float64))[None]
    small = F.interpolate(wide, scale_factor=1 / factor, mode="bicubic", antialias=True)[0, :, 2:-2, 2:-2]
    return small.round().clamp(0, np.iinfo(image.dtype).max).numpy().astype(image.dtype)


def with_reduced(names: Sequence[str], images: Sequence[NDArray[Any]], factor: int, data_range: float) -> Images:
    """Crop the sides of images to multiples of the factor, and pair the images with downsampled versions."""
    even: list[NDArray[Any]] = [
        image[:, : image.shape[1] // factor * factor, : image.shape[2] // factor * factor] for image in images
    ]
    even = [np.ascontiguousarray(image) for image in even]
    return Images(names, even, [downsample_bicubic(image, factor) for image in even], data_range, factor)


class ReducedImages(PairSet):
    """Clean images of a dataset, paired with copies that are downsampled in the same way as by MATLAB's `imresize`.

    Args:
        images: dataset that provides the clean images.
        factor: number of image pixels per downsampled pixel, along each axis.
    """

    def __init__(self, images: PairSet, factor: int = 4) -> None:
        at_least(2, factor=factor)
        self.of = images
        self.scale = factor
        self.channels = images.channels

    def images(self, split: Split) -> Images:
        images = self.of.images(split)
        if images.clean is None:
            raise ValueError(f"{type(self.of).__name__} has only noisy images, but clean images are needed")
        return with_reduced(images.names, images.clean, self.scale, images.data_range)
