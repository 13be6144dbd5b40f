"""Black images, for training methods that generate their own data."""

import numpy as np

from datamodules.arguments import at_least
from datamodules.restoration.images import Images, PairSet, Split


class Blank(PairSet):
    """Dataset of one black image, which is repeated `data.patches.per_image` times per epoch.

    The dataset determines only the epoch length and the image size.

    Args:
        image_size: height and width, in pixels.
        colour: whether images have three channels instead of one.
    """

    def __init__(self, image_size: int, colour: bool = True) -> None:
        at_least(1, image_size=image_size)
        self.image_size = image_size
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        return Images(["blank"], None, [np.zeros((self.channels, self.image_size, self.image_size), np.uint8)])
