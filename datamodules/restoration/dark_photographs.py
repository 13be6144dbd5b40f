"""Bundled photographs with artificially darkened and over-exposed versions."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from datamodules.arguments import at_least, positive, within
from datamodules.restoration.images import Images, PairSet, Split

WHITE = 65535
GAMMA = 2.2
"""Exponent from stored to linear intensities."""


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over names and values `[3, 200, 300]` in [0, 1] of the photographs."""
    import skimage.data

    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        small = Image.fromarray(getattr(skimage.data, name)()).resize((300, 200), Image.Resampling.BICUBIC)
        yield name, np.asarray(small).transpose(2, 0, 1) / 255


def stored(image: np.ndarray) -> np.ndarray:
    """Clip an image to [0, 1] and round it to 16 bits."""
    return (image.clip(0, 1) * WHITE).round().astype(np.uint16)


class DarkPhotographs(PairSet):
    """Four colour photographs I of scikit-image, 200 x 300 pixels, and their dark versions 0.12 I^1.5 + noise.

    The fourth photograph, a rocket at night, is itself dark. Training, validation and test images are the same.

    Args:
        exposure: value of white in the dark version, in (0, 1].
        exponent: exponent of the intensity. An exponent above 1 darkens shadows more than highlights.
        noise: standard deviation of white Gaussian noise, added before clipping to [0, 1].
    """

    channels = 3

    def __init__(self, exposure: float = 0.12, exponent: float = 1.5, noise: float = 0.005) -> None:
        within(0, 1, "(]", exposure=exposure)
        positive(exponent=exponent, noise=noise)
        self.exposure = exposure
        self.exponent = exponent
        self.noise = noise

    def images(self, split: Split) -> Images:
        random = np.random.default_rng(0)
        names, light, dark = [], [], []
        for name, image in photographs():
            names.append(name)
            light.append(stored(image))
            dark.append(stored(self.exposure * image**self.exponent + random.normal(0, self.noise, image.shape)))
        return Images(names, light, dark, WHITE)


class OverExposedPhotographs(PairSet):
    """Four colour photographs I of scikit-image, 200 x 300 pixels, and their versions min(1, gain I^2.2)^(1/2.2).

    Highlights are saturated, as after a longer exposure. The fourth photograph, a rocket at night, is itself dark.
    Training, validation and test images are the same.

    Args:
        gain: factor of the exposure time, at least 1. The default is three stops.
    """

    channels = 3

    def __init__(self, gain: float = 8.0) -> None:
        at_least(1, gain=gain)
        self.gain = gain

    def images(self, split: Split) -> Images:
        pairs = [(name, image, (self.gain * image**GAMMA).clip(0, 1) ** (1 / GAMMA)) for name, image in photographs()]
        names, light, bright = zip(*pairs, strict=True)
        return Images(names, [stored(image) for image in light], [stored(image) for image in bright], WHITE)
