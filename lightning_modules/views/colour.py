"""Colours of images in [0, 1], each image with a factor of its own.

Images of one channel count as grey: what acts on saturation and hue leaves them alone.
"""

import torch
from torch import Tensor, nn

from datamodules.randomness.shared_batches import sample_rows, shared_rng

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R 601-2), as in torchvision."""


def blended(image: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """factor * image + (1 - factor) * other, kept in [0, 1]; `[B, ...]` with a factor `[B]`."""
    f = factor.to(image.dtype).view(-1, *[1] * (image.ndim - 1))
    return (f * image).add_((1 - f) * other).clamp_(0, 1)


def grey(image: Tensor) -> Tensor:
    """Luma, `[B, 1, H, W]`."""
    if image.shape[1] == 1:
        return image
    red, green, blue = (weight * image[:, channel, None] for channel, weight in enumerate(LUMA))
    return red.add_(green).add_(blue)


def with_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Images `[B, C, H, W]` times their factors `[B]`; 0 is black, 1 the image."""
    return blended(image, 0.0, factor)


def with_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean luma: 0 is that grey, 1 the image."""
    return blended(image, grey(image).mean(dim=(1, 2, 3), keepdim=True), factor)


def with_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Away from the luma: 0 is the grey image, 1 the image."""
    return blended(image, grey(image), factor)


def with_hue(image: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by a shift in [-1/2, 1/2], whose ends are opposite colours; saturation and value stay."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.unbind(dim=1)
    value, least = image.amax(dim=1), image.amin(dim=1)
    chroma = value - least
    c = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / c,
        torch.where(value == green, 2 + (blue - red) / c, 4 + (red - green) / c),
    )
    hue = (hue / 6 + shift.to(image.dtype)[:, None, None]) * 6
    # Channel n of a colour of hue k is value - chroma * clamp(min(k', 4 - k'), 0, 1), with k' = (n + k) mod 6.
    offset = torch.arange(5, 0, -2, device=image.device, dtype=image.dtype).view(3, 1, 1)
    k = (offset + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


class ColourJitter(nn.Module):
    """Changes brightness, contrast, saturation and hue of some images, and takes the colours of others.

    As torchvision's ColorJitter within RandomApply, then RandomGrayscale. The order of the four is drawn once for a
    batch, all else for each image.

    Args:
        brightness: greatest departure of its factor from 1, in [0, 1].
        contrast: greatest departure of its factor from 1, in [0, 1].
        saturation: greatest departure of its factor from 1, in [0, 1].
        hue: greatest shift of the hue, in [0, 1/2].
        probability: how likely the four are changed, in [0, 1].
        grey_probability: how likely an image becomes grey, in [0, 1].

    Raises:
        ValueError: if an argument is out of range.
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
