"""Photographs bundled with scikit-image and scikit-learn."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from datamodules.arguments import at_least, one_of
from datamodules.restoration.images import Images, PairSet, Split

TESTED = ("china", "coffee", "moon")
NAMES = [
    *("astronaut", "brick", "camera", "chelsea", "china", "coffee", "coins", "flower", "grass", "gravel", "moon"),
    *("motorcycle", "rocket"),
]


@functools.cache
def bundled_photograph(name: str) -> np.ndarray:
    """Decode a bundled photograph. The array is cached per process, so callers must not modify it."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{name}.jpg")
    import skimage.data

    return skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()


class Photographs(PairSet):
    """Photographs that are bundled with scikit-image and scikit-learn: by default, ten for training, three for testing.

    They need no download. Validation and test images are the same, because there are few photographs.

    Args:
        image_size: height and width of the images, in pixels. The largest centre square of a photograph is resized to
            this size.
        colour: whether to return colour images. Grey photographs then have three equal channels. False converts all
            images to grey.
        tested: names of the photographs for validation and testing. All other photographs are for training.
    """

    def __init__(self, image_size: int = 256, colour: bool = False, tested: Sequence[str] = TESTED) -> None:
        at_least(1, image_size=image_size)
        self.image_size = image_size
        self.colour = colour
        self.tested = list(tested)
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        for name in self.tested:
            one_of(NAMES, tested=name)
        names = [name for name in NAMES if (name in self.tested) == (split != "training")]
        return Images(names, [self._reduce(bundled_photograph(name)) for name in names])

    def _reduce(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels).convert("RGB" if self.colour else "L")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        reduced = np.array(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC, box))
        return np.ascontiguousarray(np.atleast_3d(reduced).transpose(2, 0, 1))
