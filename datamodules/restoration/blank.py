"""Images without content, to train methods that make their own."""

import numpy as np

from datamodules.arguments import at_least
from datamodules.restoration.images import Images, PairSet, Split


class Blank(PairSet):
    """One black image, as often as `data.patches_per_image` says: it gives an epoch its length and images their size.

    Args:
        image_size: height and width, in pixels.
        colour: whether images have three channels.
    """

    def __init__(self, image_size: int, colour: bool = True) -> None:
        at_least(1, image_size=image_size)
        self.image_size = image_size
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        return Images(["blank"], None, [np.zeros((self.channels, self.image_size, self.image_size), np.uint8)])
