"""Convert image batches between RGB and HSV (hue, saturation, value), and jitter colours in HSV, on any device."""

import torch
from torch import Tensor


def hue_chroma_value(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert RGB to hue (in units of 60 degrees, in (-1, 5]), chroma and value (both in [0, 1]), each `[B, H, W]`.

    Args:
        image: RGB images `[B, 3, H, W]` in [0, 1]. The returned hue of grey pixels has no meaning.
    """
    red, green, blue = image.unbind(dim=1)
    value, least = image.amax(dim=1), image.amin(dim=1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return hue, chroma, value


def rgb_of(hue: Tensor, chroma: Tensor, value: Tensor) -> Tensor:
    """Convert hue (in units of 60 degrees), chroma and value, each `[B, H, W]`, to RGB images `[B, 3, H, W]`."""
    # Channel n of a colour of hue k is value - chroma * clamp(min(k', 4 - k'), 0, 1), with k' = (n + k) mod 6.
    offset = torch.arange(5, 0, -2, device=hue.device, dtype=hue.dtype).view(3, 1, 1)
    k = (offset + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def hue_saturation_value(image: Tensor) -> Tensor:
    """Convert RGB images to hue (degrees in [0, 360)), saturation and value (both in [0, 1]).

    Args:
        image: `[B, 3, H, W]`, RGB in [0, 1].

    Returns:
        Hue, saturation and value, `[B, 3, H, W]`. Grey pixels have hue 0, and black pixels also have saturation 0.
    """
    hue, chroma, value = hue_chroma_value(image)
    saturation = chroma / torch.where(value > 0, value, 1)
    return torch.stack([torch.where(chroma > 0, 60 * (hue % 6), 0), saturation, value], dim=1)


def red_green_blue(colour: Tensor) -> Tensor:
    """Convert images `[B, 3, H, W]` of hue (degrees), saturation and value (both in [0, 1]) to RGB images in [0, 1]."""
    hue, saturation, value = colour.unbind(dim=1)
    return rgb_of(hue / 60, value * saturation, value)


def jitter_colours(image: Tensor, uniform: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """Shift hue, saturation and value of each image by random amounts.

    Args:
        image: `[B, 3, H, W]`, RGB in [0, 1].
        uniform: random numbers in [0, 1), `[B, 3]`, one per shift. Each number is mapped to [-m, m), where m is the
            maximal shift.
        hue: maximal shift, in degrees.
        saturation: maximal shift of the saturation. The shifted saturation is clipped to [0, 1].
        value: maximal shift of the value. The shifted value is clipped to [0, 1].

    Returns:
        RGB images `[B, 3, H, W]` in [0, 1].
    """
    greatest = torch.tensor([hue, saturation, value], dtype=image.dtype, device=image.device)
    change = (2 * uniform.to(image.dtype) - 1) * greatest
    moved = hue_saturation_value(image) + change[:, :, None, None]
    return red_green_blue(torch.cat([moved[:, :1] % 360, moved[:, 1:].clamp(0, 1)], dim=1))
