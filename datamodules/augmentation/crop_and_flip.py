"""Randomly crop and horizontally flip a batch on its device.

The random numbers are a function of (seed, epoch, sample).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.randomness.counter import sample_uniform


def crop_and_flip(image: Tensor, uniform: Tensor, padding: int, flip: bool = True) -> Tensor:
    """Zero-pad images, crop them to the original size at a random position, and flip half of them horizontally.

    Args:
        image: images `[B, C, H, W]` of any dtype.
        uniform: random numbers `[B, 3]` in [0, 1). They determine the row and the column of each crop, and whether it
            is flipped.
        padding: number of zero pixels on each side. 0 means no crop.
        flip: whether to flip half of the images horizontally.

    Returns:
        Images `[B, C, H, W]` of the same dtype.
    """
    batch, channels, height, width = image.shape
    top, left = (uniform[:, :2] * (2 * padding + 1)).long().unbind(dim=1)
    padded = F.pad(image, [padding] * 4).flatten()
    # Row i of this overlapping view holds the `width` pixels that start at pixel i, so index_select of rows gives
    # crops.
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    plane = torch.arange(batch * channels, device=image.device).view(batch, channels, 1) * padded_height
    row = plane + top[:, None, None] + torch.arange(height, device=image.device)
    cropped = runs.index_select(0, (row * padded_width + left[:, None, None]).flatten()).view_as(image)
    if not flip:
        return cropped
    mirrored = torch.arange(batch, device=image.device) + batch * (uniform[:, 2] < 0.5)
    return torch.cat([cropped, cropped.flip(3)]).index_select(0, mirrored)


def sample_flips(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Return a Boolean tensor `[B]`: whether `Augmentation.apply` flips each image if `flip` is true."""
    return sample_uniform(seed, epoch, index, count=3)[:, 2] < 0.5


@dataclass(frozen=True)
class Augmentation:
    """Random crop and horizontal flip of training images.

    Args:
        crop_padding: width of the zero padding before the random crop, in pixels. 0 means no crop.
        flip: whether to flip half of the images horizontally.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        at_least(0, crop_padding=self.crop_padding)

    def apply(self, image: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Augment images `[B, C, H, W]`, or clips `[B, T, C, H, W]`, whose frames are treated in the same way.

        The random numbers are a function of (seed, epoch, index).
        """
        if not (self.crop_padding or self.flip):
            return image
        uniform = sample_uniform(seed, epoch, index, count=3)
        return crop_and_flip(image.flatten(1, -3), uniform, self.crop_padding, self.flip).view_as(image)
