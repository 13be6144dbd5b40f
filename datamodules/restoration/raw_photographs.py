"""Bundled photographs converted to raw images, without added noise."""

import numpy as np

from datamodules.arguments import positive
from datamodules.files.bayer import PLACES
from datamodules.restoration.images import Images, PairSet, Split
from datamodules.restoration.photographs import Photographs

WHITE = 65535
CHANNELS = (0, 1, 2, 1)
"""Index in (R, G, B) of each of the packed channels R, G, B and G."""


class RawPhotographs(PairSet):
    """`Photographs` converted to raw images: linear values without white balance, in a Bayer pattern.

    These images only resemble raw images. They still contain the noise of the photographs, and effects of the camera's
    processing. The white level is 1 in each channel.

    Args:
        image_size: height and width of the sensor, in pixels. Packed images have half of this height and width.
        white_balance: white-balance gains of red and blue relative to green, at least 1.
    """

    channels = 4

    def __init__(self, image_size: int = 512, white_balance: tuple[float, float] = (2.0, 1.5)) -> None:
        positive(red=white_balance[0], blue=white_balance[1])
        if image_size % 2:
            raise ValueError(f"image_size must be even, since Bayer cells have two pixels per side, got {image_size}")
        self.image_size = image_size
        self.white_balance = white_balance

    def images(self, split: Split) -> Images:
        photographs = Photographs(self.image_size, colour=True).images(split)
        red, blue = self.white_balance
        light = np.array([1 / red, 1, 1 / blue])
        packed = []
        for photograph in photographs.stored:
            linear = light[:, None, None] * (photograph / 255) ** 2.2
            cells = [linear[c, row::2, column::2] for c, (row, column) in zip(CHANNELS, PLACES, strict=True)]
            packed.append((np.stack(cells) * WHITE).round().astype(np.uint16))
        return Images(photographs.names, packed, data_range=WHITE)
