"""Aspect-ratio buckets: several crop sizes of about the same area, so that cropping removes little of an image.

All images of a training batch are in the same bucket, see `datamodules.loading.one_size_batches.BucketBatches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least
from datamodules.augmentation.boxes import Box
from datamodules.files.image_files import Crop, box_in_resized, corner_of_crop


@dataclass(frozen=True)
class Buckets:
    """Crop sizes with different aspect ratios and at most `image_size`^2 pixels.

    For each short side that is a multiple of `multiple`, the long side is the largest multiple for which the area is at
    most `image_size`^2. With `image_size` 1024, `multiple` 64 and `max_ratio` 2, the buckets are 1024 x 1024, 960 x
    1088, 896 x 1152, 832 x 1216 and 768 x 1344, in portrait and landscape format, as in the training of SDXL.

    Args:
        multiple: number of pixels by which every height and width is divisible. If the model requires multiples of 8,
            for example, `multiple` must be a multiple of 8.
        max_ratio: largest ratio of the long side to the short side. Images with a larger ratio are cropped.
    """

    multiple: int = 64
    max_ratio: float = 2.0

    def __post_init__(self) -> None:
        at_least(1, multiple=self.multiple, max_ratio=self.max_ratio)

    def sizes(self, image_size: int) -> list[tuple[int, int]]:
        """List the heights and widths of the buckets, from tall to wide."""
        if image_size % self.multiple:
            raise ValueError(f"image_size must be a multiple of buckets.multiple, {self.multiple}, got {image_size}")
        found = set()
        for short in range(self.multiple, image_size + 1, self.multiple):
            long = image_size**2 // short // self.multiple * self.multiple
            if long <= self.max_ratio * short:
                found |= {(short, long), (long, short)}
        return sorted(found, reverse=True)


def nearest_bucket(sizes: Sequence[tuple[int, int]], buckets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """For each image, return the index of the bucket with the nearest log aspect ratio, `[N]`.

    Args:
        sizes: height and width of each image.
        buckets: height and width of each bucket.
    """
    image, bucket = (np.log([width / height for height, width in each]) for each in (sizes, buckets))
    return np.abs(image[:, None] - bucket).argmin(axis=1)


class CoveringCrop(Crop):
    """Crop that first rotates an image upright and resizes it so that it covers the crop.

    The crop is at a random position in training, and otherwise in the centre.

    Args:
        height: height of the crop, in pixels.
        width: width of the crop, in pixels.
        zoom: additional factor, at least 1, by which the resized image is enlarged before it is cropped.
    """

    upright = True

    def __init__(self, height: int, width: int, zoom: float = 1.0) -> None:
        super().__init__(min(height, width), round(zoom * min(height, width)))
        self.height = height
        self.width = width
        self.zoom = zoom

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def resize_images(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the resized image.

        One of them is `zoom` times that of the crop. The other follows from the aspect ratio, and is rounded down.
        """
        across, down = round(self.zoom * self.width), round(self.zoom * self.height)
        if across * height >= down * width:
            return across, height * across // width
        return width * down // height, down

    def corner(self, width: int, height: int, uniform: Sequence[float] | None) -> tuple[int, int]:
        """Return the left and top coordinates of the crop in the resized image."""
        return corner_of_crop(self.resize_images(width, height), (self.width, self.height), uniform)

    def box(self, width: int, height: int, uniform: Sequence[float] | None) -> Box:
        corner = self.corner(width, height, uniform)
        return box_in_resized((width, height), self.resize_images(width, height), corner, (self.width, self.height))
