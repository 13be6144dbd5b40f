"""Bundled photographs as a camera's sensor would have seen them, without noise."""

import numpy as np

from datamodules.arguments import positive
from datamodules.files.bayer import PLACES
from datamodules.restoration.images import Images, PairSet, Split
from datamodules.restoration.photographs import Photographs

WHITE = 65535
CHANNELS = (0, 1, 2, 1)
"""Colours R, G, B of the packed channels R, G, B, G."""


class RawPhotographs(PairSet):
    """`Photographs` turned back into raw images: without gamma, with the unequal colours of a sensor, in Bayer's cells.

    They only resemble raw images: their noise and processing are those of photographs, and 1 is white in each.

    Args:
        image_size: height and width of the sensor, in pixels; packed images have half as many.
        white_balance: factors that red and blue would need to be as bright as green, at least 1.

    Raises:
        ValueError: if an argument is out of range.
    """

    channels = 4

    def __init__(self, image_size: int = 512, white_balance: tuple[float, float] = (2.0, 1.5)) -> None:
        positive(red=white_balance[0], blue=white_balance[1])
        if image_size % 2:
            raise ValueError(f"image_size must be even, two pixels a cell, got {image_size}")
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
