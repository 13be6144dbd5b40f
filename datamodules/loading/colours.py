"""Colours of images changed at random, in hue, saturation and value; batched, on the images' own device."""

import torch
from torch import Tensor


def hue_saturation_value(image: Tensor) -> Tensor:
    """Colours as hue in degrees, [0, 360), saturation and value, in [0, 1].

    Args:
        image: `[B, 3, H, W]`, RGB in [0, 1].

    Returns:
        `[B, 3, H, W]`; a grey pixel has hue 0, a black one also saturation 0.
    """
    value, least = image.amax(dim=1), image.amin(dim=1)
    chroma = value - least
    red, green, blue = image.unbind(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    saturation = chroma / torch.where(value > 0, value, 1)
    return torch.stack([torch.where(chroma > 0, 60 * (sector % 6), 0), saturation, value], dim=1)


def red_green_blue(colour: Tensor) -> Tensor:
    """The inverse: RGB in [0, 1] from hue in degrees, saturation and value in [0, 1]; all `[B, 3, H, W]`."""
    hue, saturation, value = colour.unbind(dim=1)
    channels = []
    for offset in (5, 3, 1):
        sector = (offset + hue / 60) % 6
        channels.append(value - value * saturation * torch.minimum(sector, 4 - sector).clamp(0, 1))
    return torch.stack(channels, dim=1)


def jittered(image: Tensor, uniform: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """Adds one number to the hue of an image, one to its saturation, one to its value.

    Args:
        image: `[B, 3, H, W]`, RGB in [0, 1].
        uniform: `[B, 3]` in [0, 1): the three numbers of each image, spread evenly between minus and plus the greatest.
        hue: greatest change, in degrees.
        saturation: greatest change; what leaves [0, 1] is clipped.
        value: greatest change of the value; it is clipped to [0, 1].

    Returns:
        `[B, 3, H, W]`, in [0, 1].
    """
    greatest = torch.tensor([hue, saturation, value], dtype=image.dtype, device=image.device)
    change = (2 * uniform.to(image.dtype) - 1) * greatest
    moved = hue_saturation_value(image) + change[:, :, None, None]
    return red_green_blue(torch.cat([moved[:, :1] % 360, moved[:, 1:].clamp(0, 1)], dim=1))
