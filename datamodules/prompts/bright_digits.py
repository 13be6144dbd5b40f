"""The digits of scikit-learn on backgrounds of five shades of grey.

The caption names the shade of the background.
"""

import numpy as np
import torch

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.prompts.captioned_set import Captioned, CaptionedSet

SHADES = {"black": 0.1, "dark": 0.3, "grey": 0.5, "light": 0.7, "bright": 0.9}
"""Brightness of the background for each shade, on a scale from 0 (black) to 1 (white)."""


class BrightDigits(CaptionedSet):
    """All 1,797 digits of scikit-learn, in white on backgrounds of different shades.

    The caption names the shade of the background.

    The shades are sampled once, with equal probability, and are the same for all seeds.

    Args:
        image_size: height and width of the images, in pixels. Digits are resized bilinearly.
    """

    def __init__(self, image_size: int = 16) -> None:
        self.image_shape = (1, image_size, image_size)

    def training(self) -> Captioned:
        digits = Digits(image_size=self.image_shape[1])
        parts = [digits.training(), digits.test()]
        stroke = torch.cat([part.image.double() / part.data_range for part in parts])
        names = np.random.default_rng(0).choice(list(SHADES), len(stroke))
        shade = torch.tensor([SHADES[name] for name in names], dtype=torch.float64).view(-1, 1, 1, 1)
        image = (255 * (shade + (1 - shade) * stroke)).round().to(torch.uint8)
        return Captioned(ImagesInMemory(image, torch.cat([part.label for part in parts])), names.tolist())
