"""Random changes of the colours of images in [0, 1], sampled independently for each image.

Images with a single channel are grey; changes of saturation and hue have no effect on them.
"""

import torch
from torch import Tensor, nn

from datamodules.augmentation.colours import hue_chroma_value, rgb_of
from datamodules.randomness.shared_batches import sample_rows, shared_rng

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R 601-2), as in torchvision."""


def blend(image: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Compute factor * image + (1 - factor) * other, clipped to [0, 1], for images `[B, ...]` and factors `[B]`."""
    f = factor.to(image.dtype).view(-1, *[1] * (image.ndim - 1))
    return (f * image).add_((1 - f) * other).clamp_(0, 1)


def grey(image: Tensor) -> Tensor:
    """Compute the luma of images, `[B, 1, H, W]`."""
    if image.shape[1] == 1:
        return image
    red, green, blue = (weight * image[:, channel, None] for channel, weight in enumerate(LUMA))
    return red.add_(green).add_(blue)


def with_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Scale the brightness of images `[B, C, H, W]` by factors `[B]`; 0 gives black, and 1 gives the original image."""
    return blend(image, 0.0, factor)


def with_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale the contrast by factors `[B]`: 0 gives the mean luma of the image, and 1 the original image."""
    return blend(image, grey(image).mean(dim=(1, 2, 3), keepdim=True), factor)


def with_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation of images by factors `[B]`; 0 gives a grey image, and 1 gives the original image."""
    return blend(image, grey(image), factor)


def with_hue(image: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of each image by `shift`, `[B]`, in [-1/2, 1/2].

    Shifts of -1/2 and 1/2 both give the complementary colours.
    """
    if image.shape[1] == 1:
        return image
    hue, chroma, value = hue_chroma_value(image)
    return rgb_of((hue / 6 + shift.to(image.dtype)[:, None, None]) * 6, chroma, value)


class ColourJitter(nn.Module):
    """Change brightness, contrast, saturation and hue of randomly selected images, and convert some images to grey.

    This is equivalent to torchvision's `ColorJitter` within `RandomApply`, followed by `RandomGrayscale`. The order of
    the four changes is sampled once per batch; all other random numbers are sampled separately for each image.

    Args:
        brightness: maximum deviation of the brightness factor from 1, in [0, 1].
        contrast: maximum deviation of the contrast factor from 1, in [0, 1].
        saturation: maximum deviation of the saturation factor from 1, in [0, 1].
        hue: maximum hue shift, in [0, 1/2].
        probability: probability that the four changes are applied to an image, in [0, 1].
        grey_probability: probability that an image is converted to grey, in [0, 1].
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 0.8,
        grey_probability: float = 0.2,
    ) -> None:
        super().__init__()
        arguments = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        probabilities = {"probability": probability, "grey_probability": grey_probability}
        for key, value in {**arguments, **probabilities}.items():
            greatest = 0.5 if key == "hue" else 1
            if not 0 <= value <= greatest:
                raise ValueError(f"{key} must be in [0, {greatest}], got {value}")
        self.strength = (brightness, contrast, saturation, hue)
        self.probability = probability
        self.grey_probability = grey_probability

    def forward(self, image: Tensor) -> Tensor:
        uniform = sample_rows(torch.rand, (6, len(image)), image.device, rows=1)
        changes = (with_brightness, with_contrast, with_saturation, with_hue)
        changed = image
        with shared_rng():
            order = torch.randperm(4).tolist()
        for which in order:
            departure = self.strength[which] * (2 * uniform[which] - 1)
            changed = changes[which](changed, departure if which == 3 else 1 + departure)
        jittered = torch.where((uniform[4] < self.probability).view(-1, 1, 1, 1), changed, image)
        return torch.where((uniform[5] < self.grey_probability).view(-1, 1, 1, 1), grey(jittered), jittered)
