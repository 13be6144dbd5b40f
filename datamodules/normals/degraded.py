"""Datasets of images with surface normals, in which the images are degraded."""

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least, positive, within
from datamodules.corruptions.clip_degradation.compression import as_jpeg
from datamodules.normals.normal_set import NormalSet, NormalSource, Split


class Degraded(NormalSet):
    """Wrapper that blurs a dataset's images, changes their exposure and compresses them. The normals do not change.

    Args:
        images: dataset whose images are degraded.
        exposure: factor by which pixel values are multiplied before they are clipped. Use a value below 1 for dark
            images and above 1 for over-exposed images.
        blur: standard deviation of a Gaussian blur, in pixels.
        jpeg_quality: JPEG quality, from 1 to 100. None means no compression.
    """

    def __init__(
        self, images: NormalSet, exposure: float = 1.0, blur: float = 0.0, jpeg_quality: int | None = None
    ) -> None:
        positive(exposure=exposure)
        at_least(0, blur=blur)
        within(1, 100, jpeg_quality=jpeg_quality)
        self.of = images
        self.exposure = exposure
        self.blur = blur
        self.jpeg_quality = jpeg_quality

    def source(self, split: Split) -> NormalSource:
        return DegradedSource(self.of.source(split), self)

    def degrade(self, image: NDArray) -> NDArray:
        """Degrade a uint8 image `[3, H, W]`."""
        from scipy.ndimage import gaussian_filter

        pixels = gaussian_filter(image.astype(np.float64), (0, self.blur, self.blur), mode="nearest")
        levels = (self.exposure * pixels).round().clip(0, 255).astype(np.uint8)
        if self.jpeg_quality is None:
            return levels
        return as_jpeg(levels.transpose(1, 2, 0), self.jpeg_quality).transpose(2, 0, 1).copy()


class DegradedSource(NormalSource):
    """The degraded images of one split."""

    def __init__(self, source: NormalSource, dataset: Degraded) -> None:
        self.source = source
        self.dataset = dataset
        self.names = source.names
        self.sizes = source.sizes
        self.in_memory = source.in_memory

    def read(self, position: int) -> tuple[NDArray, NDArray]:
        image, normal = self.source.read(position)
        return self.dataset.degrade(image), normal
