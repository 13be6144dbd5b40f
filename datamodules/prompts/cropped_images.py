"""Images of different sizes, cropped to one size or to aspect-ratio buckets, with the size conditions of SDXL."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import EncodedImages, ImageSource
from datamodules.prompts.buckets import Buckets, CoveringCrop, nearest_bucket


class CroppedImages(ImageSource):
    """Encoded images, each of which is cropped to the size of its bucket.

    All rows in a call of `fetch` must be in the same bucket.

    The headers of all images are read when the object is created.

    Args:
        source: encoded images.
        image_size: height and width of the crops, in pixels. If buckets are used, it is the square root of the area of
            the largest crop.
        resize: length of the short side before a square crop, in pixels, at least `image_size`. If buckets are used,
            images are enlarged by the factor `resize / image_size` before cropping. None means `image_size`.
        buckets: aspect-ratio buckets. None crops all images to squares.
        masks: masks of the images, in the same order and with the same aspect ratios. None means no masks.
        conditions: condition images of a ControlNet, in the same order and with the same aspect ratios. None means no
            condition images.
    """

    def __init__(
        self,
        source: EncodedImages,
        image_size: int,
        resize: int | None = None,
        buckets: Buckets | None = None,
        masks: EncodedImages | None = None,
        conditions: EncodedImages | None = None,
    ) -> None:
        zoom = (resize or image_size) / image_size
        sizes = source.sizes()
        self.source = source
        self.masks = masks
        self.conditions = conditions
        self.label = source.label
        self.size = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self.bucket_sizes = [(image_size, image_size)] if buckets is None else buckets.sizes(image_size)
        self.bucketed = buckets is not None
        self.bucket: NDArray[np.int64] = nearest_bucket(sizes, self.bucket_sizes)
        self.crops = [CoveringCrop(*size, zoom) for size in self.bucket_sizes]
        self.num_uniform = CoveringCrop.num_uniform
        self.masked = masks is not None
        self.conditioned = conditions is not None
        self.parts: Sequence[CroppedImages] = [self]
        self._central: Tensor | None = None
        for each, noun in ((masks, "mask"), (conditions, "condition image")):
            if each is not None:
                _check_aspect_ratios(source, each, self.size, noun)

    @property
    def names(self) -> list[str] | None:
        return self.source.names

    def bucket_of(self, row: Tensor) -> int:
        """Return the bucket of the images of a batch."""
        buckets = np.unique(self.bucket[row.numpy()])
        if len(buckets) != 1:
            raise ValueError("a batch must not contain images of several buckets")
        return int(buckets[0])

    def _crop(self, row: Tensor) -> CoveringCrop:
        return self.crops[self.bucket_of(row)]

    def crop_of(self, row: NDArray[np.int64]) -> dict[str, Any]:
        """Describe the central crop of one bucket's images by JSON values. The values identify a cache entry."""
        crop = self._crop(torch.from_numpy(row))
        return {"crop": [crop.height, crop.width], "zoom": crop.zoom, "upright": True, "background": crop.background}

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        return self.source.read(row, uniform, self._crop(row))

    def fetch_masks(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read uint8 masks `[B, 1, H, W]` in 0...255, cropped in the same way as the images.

        Transparent pixels of a mask count as black.
        """
        assert self.masks is not None
        crop = copy(self._crop(row))
        crop.background = "black"
        return self.masks.read(row, uniform, crop)[:, :1]

    def fetch_conditions(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read uint8 condition images `[B, 3, H, W]` in 0...255, cropped in the same way as the images."""
        assert self.conditions is not None
        return self.conditions.read(row, uniform, self._crop(row))

    def size_conditions(self, row: Tensor, uniform: Tensor | None, mirrored: Tensor | None = None) -> Tensor:
        """Return the size conditions of SDXL, a float32 tensor `[B, 6]`.

        The conditions are the height and width of the original image, the top and left coordinates of the crop in the
        resized image, and the height and width of the crop, all in pixels.

        Args:
            row: positions of the images, `[B]`.
            uniform: uniform numbers in [0, 1), `[B, 2]`, that determine random crops. None means central crops.
            mirrored: whether each image is flipped horizontally, `[B]`. A flip moves the crop to the other side of the
                image.
        """
        if uniform is None and mirrored is None:
            if self._central is None:
                self._central = self._conditions(np.arange(len(self.label)), None, None)
            return self._central[row]
        return self._conditions(row.numpy(), uniform, mirrored)

    def _conditions(self, row: NDArray[np.int64], uniform: Tensor | None, mirrored: Tensor | None) -> Tensor:
        found = np.empty((len(row), 6), dtype=np.float32)
        places: Sequence[Sequence[float] | None] = [None] * len(row) if uniform is None else uniform.tolist()
        turned = [False] * len(row) if mirrored is None else mirrored.tolist()
        for position, (image, place, flip) in enumerate(zip(row.tolist(), places, turned, strict=True)):
            crop, (height, width) = self.crops[self.bucket[image]], self.size[image].tolist()
            left, top = crop.corner(width, height, place)
            if flip:
                left = crop.resize_images(width, height)[0] - crop.width - left
            found[position] = height, width, top, left, crop.height, crop.width
        return torch.from_numpy(found)


def _check_aspect_ratios(source: EncodedImages, others: EncodedImages, size: NDArray[np.int64], noun: str) -> None:
    """Reject masks and condition images whose aspect ratio differs by more than rounding from that of their image."""
    for place, ((height, width), (tall, wide)) in enumerate(zip(size.tolist(), others.sizes(), strict=True)):
        if abs(height * wide - tall * width) > max(height, width, tall, wide):
            raise ValueError(
                f"the {noun} {(others.names or [])[place]} has {wide} x {tall} pixels, and its image "
                f"{(source.names or [])[place]} has {width} x {height}: both must have the same aspect ratio"
            )


def check_image_size(image_size: int, resize: int | None, buckets: Buckets | None) -> None:
    """Reject sizes that are out of range, before any file is read."""
    at_least(1, image_size=image_size)
    if resize is not None and resize < image_size:
        raise ValueError(f"resize must be at least image_size, {image_size}, got {resize}")
    if buckets is not None:
        buckets.sizes(image_size)
