"""Bundled photographs paired with artificially darkened or over-exposed versions."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.restoration.images import Images, PairSet, Split
from datamodules.restoration.photographs import bundled_photograph

WHITE = 65535
GAMMA = 2.2
"""Exponent that maps stored values to linear intensities."""
TESTED = ("astronaut", "coffee", "chelsea", "rocket")
COLOURED = (*TESTED, "china", "flower", "motorcycle")
"""Colour photographs that are bundled with scikit-image and scikit-learn."""


def photographs(names: Sequence[str] = TESTED) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the pixel values of each photograph. The values are `[3, 200, 300]`, in [0, 1]."""
    for name in names:
        small = Image.fromarray(bundled_photograph(name)).resize((300, 200), Image.Resampling.BICUBIC)
        yield name, np.asarray(small).transpose(2, 0, 1) / 255


def round_to_16_bits(image: np.ndarray) -> np.ndarray:
    """Clip the values of an image to [0, 1] and round them to 16 bits."""
    return (image.clip(0, 1) * WHITE).round().astype(np.uint16)


class DarkPhotographs(PairSet):
    """Four colour photographs I of 200 x 300 pixels from scikit-image, and their dark versions 0.12 I^1.5 + noise.

    The fourth photograph, a rocket at night, is dark even before darkening. Training, validation and test images are
    the same. If `haze` is not 0, the dark version is computed from (1 - haze) I + haze instead of I.

    Args:
        exposure: value of a white pixel in the dark version, in (0, 1].
        exponent: exponent of I. An exponent above 1 darkens shadows more than highlights.
        noise: standard deviation of white Gaussian noise, added before clipping to [0, 1].
        haze: weight of white haze, in [0, 1).
        names: names of photographs, from `COLOURED`.
    """

    channels = 3

    def __init__(
        self,
        exposure: float = 0.12,
        exponent: float = 1.5,
        noise: float = 0.005,
        haze: float = 0.0,
        names: Sequence[str] = TESTED,
    ) -> None:
        within(0, 1, "(]", exposure=exposure)
        within(0, 1, "[)", haze=haze)
        for name in names:
            one_of(COLOURED, names=name)
        positive(exponent=exponent, noise=noise)
        self.exposure = exposure
        self.exponent = exponent
        self.noise = noise
        self.haze = haze
        self.names = list(names)

    def images(self, split: Split) -> Images:
        random = np.random.default_rng(0)
        names, light, dark = [], [], []
        for name, image in photographs(self.names):
            names.append(name)
            light.append(round_to_16_bits(image))
            seen = (1 - self.haze) * image + self.haze if self.haze else image
            dark.append(
                round_to_16_bits(self.exposure * seen**self.exponent + random.normal(0, self.noise, image.shape))
            )
        return Images(names, light, dark, WHITE)


class OverExposedPhotographs(PairSet):
    """Four colour photographs I of 200 x 300 pixels from scikit-image, and versions min(1, gain I^2.2)^(1/2.2) of them.

    Highlights are saturated, as after a longer exposure. The fourth photograph, a rocket at night, is itself dark.
    Training, validation and test images are the same.

    Args:
        gain: factor by which the exposure time is increased, at least 1. The default of 8 is three stops.
    """

    channels = 3

    def __init__(self, gain: float = 8.0) -> None:
        at_least(1, gain=gain)
        self.gain = gain

    def images(self, split: Split) -> Images:
        pairs = [(name, image, (self.gain * image**GAMMA).clip(0, 1) ** (1 / GAMMA)) for name, image in photographs()]
        names, light, bright = zip(*pairs, strict=True)
        return Images(
            names, [round_to_16_bits(image) for image in light], [round_to_16_bits(image) for image in bright], WHITE
        )
