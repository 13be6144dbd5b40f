"""Images with smaller copies of themselves, from which super-resolution is to find them again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from datamodules.arguments import at_least
from datamodules.files.file_pairs import paired, stem_of
from datamodules.restoration.image_folders import image_files, read_images
from datamodules.restoration.images import Images, PairSet, Split


def reduced(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Reduce an image as MATLAB's `imresize` does: by an antialiased bicubic kernel, with mirrored borders.

    Args:
        image: `[C, H, W]`, of whole numbers; sides are multiples of the factor.
        factor: pixels of the image for one of the reduced one, along each axis.

    Returns:
        `[C, H / factor, W / factor]`, rounded to the image's type.
    """
    reach = 2 * factor  # of the kernel; PyTorch would weigh what lies within the image alone
    mirrored = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    wide = torch.from_numpy(mirrored.astype(np.float64))[None]
    small = F.interpolate(wide, scale_factor=1 / factor, mode="bicubic", antialias=True)[0, :, 2:-2, 2:-2]
    return small.round().clamp(0, np.iinfo(image.dtype).max).numpy().astype(image.dtype)


def with_reduced(names: Sequence[str], images: Sequence[NDArray[Any]], factor: int, data_range: int) -> Images:
    """Give images the reduced ones; rows and columns beyond multiples of the factor are left out."""
    even: list[NDArray[Any]] = [
        image[:, : image.shape[1] // factor * factor, : image.shape[2] // factor * factor] for image in images
    ]
    even = [np.ascontiguousarray(image) for image in even]
    return Images(names, even, [reduced(image, factor) for image in even], data_range, factor)


class ReducedImages(PairSet):
    """Clean images of a set, and what MATLAB's bicubic reduction makes of them.

    Args:
        images: the set, of which the clean images are taken.
        factor: pixels of an image for one of the reduced one, along each axis.

    Raises:
        ValueError: if `factor` is below 2, or the set has no clean images.
    """

    def __init__(self, images: PairSet, factor: int = 4) -> None:
        at_least(2, factor=factor)
        self.of = images
        self.scale = factor
        self.channels = images.channels

    def images(self, split: Split) -> Images:
        images = self.of.images(split)
        if images.clean is None:
            raise ValueError(f"{type(self.of).__name__} has noisy images alone, and clean ones are reduced")
        return with_reduced(images.names, images.clean, self.scale, images.data_range)


class ScaledFolders(PairSet):
    """Your own large images and small ones in two folders with the same names, or large ones that are reduced here.

    Args:
        large_dir: folder of large images, with any subfolders.
        small_dir: folder of small ones; None makes them by MATLAB's bicubic reduction.
        factor: pixels of a large image for one of a small one, along each axis.
        colour: whether images are read in colour; otherwise in grey, as luma of Rec. 601.

    Raises:
        ValueError: if `factor` is below 2, names do not match, or a small image has not 1 / factor of the sides.
        FileNotFoundError: if a folder does not exist or holds no image.
    """

    def __init__(self, large_dir: str, small_dir: str | None = None, factor: int = 4, colour: bool = True) -> None:
        at_least(2, factor=factor)
        self.large_dir = Path(large_dir).expanduser()
        self.small_dir = None if small_dir is None else Path(small_dir).expanduser()
        self.scale = factor
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        large = image_files(self.large_dir, "large_dir")
        if self.small_dir is None:
            images = read_images(self.large_dir, large, self.channels)
            return with_reduced([stem_of(name) for name in large], images, self.scale, 255)
        pairs = paired(image_files(self.small_dir, "small_dir"), large, self.small_dir, kinds=("small", "large"))
        return Images(
            [stem_of(name) for _, name in pairs],
            read_images(self.large_dir, [name for _, name in pairs], self.channels),
            read_images(self.small_dir, [name for name, _ in pairs], self.channels),
            scale=self.scale,
        )
