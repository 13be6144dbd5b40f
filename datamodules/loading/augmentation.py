"""Batched augmentation on the batch's own device, with random numbers that depend only on (seed, epoch, sample).

The numbers come from a counter, not from a generator's state: a sample is cropped and flipped alike whichever batch,
process or device it falls to, and nothing has to be saved to resume.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), on one 64-bit word."""
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _mix_tensor(word: Tensor) -> Tensor:
    """`_mix` on every element of an int64 tensor, whose products wrap around as those of 64-bit words do."""

    def shifted(value: Tensor, bits: int) -> Tensor:
        return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)

    word = word + _signed(_GOLDEN)
    word.bitwise_xor_(shifted(word, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    word.bitwise_xor_(shifted(word, 27)).mul_(_signed(0x94D049BB133111EB))
    return word.bitwise_xor_(shifted(word, 31))


def sample_words(seed: int, epoch: int, index: Tensor, count: int, stream: int = 0) -> Tensor:
    """Random words of 64 bits of each sample in an epoch.

    Args:
        seed: random seed of the whole run.
        epoch: redraws every sample's words.
        index: `[B]`, int64: position in the set.
        count: words for each sample.
        stream: draws independent words for another purpose (a second view, say).

    Returns:
        `[B, count]`, int64, on the device of `index`.
    """
    key = 0
    for word in (seed, epoch, stream):
        key = _mix(key ^ (word & _WORD))
    sample = _mix_tensor(index + _signed(key))
    offsets = torch.arange(1, count + 1, device=index.device) * _signed(_GOLDEN)
    return _mix_tensor(sample[:, None] + offsets)


def sample_uniform(seed: int, epoch: int, index: Tensor, count: int, stream: int = 0) -> Tensor:
    """Uniform numbers of each sample in an epoch, `[B, count]`, float32 in [0, 1); arguments as of `sample_words`."""
    bits = sample_words(seed, epoch, index, count, stream)
    return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)


def crop_and_flip(image: Tensor, uniform: Tensor, padding: int, flip: bool = True) -> Tensor:
    """Pads with zeros, crops back to size at a random place, and mirrors half of the images.

    Args:
        image: `[B, C, H, W]`, of any type.
        uniform: `[B, 3]` in [0, 1): row, column and mirror of each image.
        padding: pixels on each side; 0 leaves the place alone.
        flip: whether to mirror.

    Returns:
        `[B, C, H, W]`, of the same type.
    """
    batch, channels, height, width = image.shape
    top, left = (uniform[:, :2] * (2 * padding + 1)).long().unbind(dim=1)
    padded = F.pad(image, [padding] * 4).flatten()
    # Every run of `width` pixels as a row of one overlapping view: a crop is then a selection of rows, copied whole.
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    plane = torch.arange(batch * channels, device=image.device).view(batch, channels, 1) * padded_height
    row = plane + top[:, None, None] + torch.arange(height, device=image.device)
    cropped = runs.index_select(0, (row * padded_width + left[:, None, None]).flatten()).view_as(image)
    if not flip:
        return cropped
    mirrored = torch.arange(batch, device=image.device) + batch * (uniform[:, 2] < 0.5)
    return torch.cat([cropped, cropped.flip(3)]).index_select(0, mirrored)


@dataclass(frozen=True)
class Augmentation:
    """Random crop and mirror of training images.

    Args:
        crop_padding: zeros around an image before it is cropped back at a random place, in pixels.
        flip: whether half of the images are mirrored.

    Raises:
        ValueError: if `crop_padding` is negative.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        at_least(0, crop_padding=self.crop_padding)

    def apply(self, image: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Augment images `[B, C, H, W]`, of any type, as drawn from (seed, epoch, index)."""
        if not (self.crop_padding or self.flip):
            return image
        return crop_and_flip(image, sample_uniform(seed, epoch, index, count=3), self.crop_padding, self.flip)
