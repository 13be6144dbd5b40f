"""Measures of interpolations: how noise-like latents are, how smooth a row of images is, how near to real images."""

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192
"""Training images that are compared at once."""


def latent_statistics(latent: Tensor) -> dict[str, Tensor]:
    """Describe latents `[B, ...]`, `[B]` each: standard normal numbers have 1, 3, .0455 and 1.

    These are the standard deviation, the kurtosis, the part of the numbers beyond 2, and the norm over the root of
    their count.
    """
    flat = latent.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1)
    return {
        "deviation": variance.sqrt(),
        "kurtosis": centred.pow(4).mean(dim=1) / variance.square().clamp(min=1e-12),
        "beyond_2": (flat.abs() > 2).to(flat.dtype).mean(dim=1),
        "norm": flat.square().mean(dim=1).sqrt(),
    }


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Compute the Euclidean distances of images, over their last three dimensions, in pixel units."""
    return (first - second).flatten(-3).norm(dim=-1)


def frame_measures(frames: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Measure rows of images `[B, L, C, H, W]` between two images `[B, C, H, W]`: `[B]` each.

    `out_of_range` is the part of the pixels outside [0, 1]. The others are of pixels clipped to it: `distance_to_ends`,
    the mean distance to both images, `mean_step` and `largest_step`, distances of neighbours, the ends among them.
    """
    clipped = frames.clamp(0, 1)
    row = torch.cat([first[:, None], clipped, second[:, None]], dim=1)
    steps = distances(row[:, 1:], row[:, :-1])
    to_ends = (distances(clipped, first[:, None]) + distances(clipped, second[:, None])) / 2
    return {
        "out_of_range": ((frames < 0) | (frames > 1)).to(frames.dtype).flatten(1).mean(dim=1),
        "distance_to_ends": to_ends.mean(dim=1),
        "mean_step": steps.mean(dim=1),
        "largest_step": steps.amax(dim=1),
    }


def nearest_distances(images: Tensor, stored: Tensor, data_range: int) -> Tensor:
    """Compute the distance of each image to the nearest training image.

    Args:
        images: `[n, C, H, W]`.
        stored: training images, `[N, C, H, W]`, on any device.
        data_range: their value that stands for 1.

    Returns:
        `[n]`, in pixel units.
    """
    flat = images.flatten(1)
    parts = (part.to(flat).flatten(1) / data_range for part in stored.split(ROWS_AT_ONCE))
    return torch.stack([torch.cdist(flat, part).amin(dim=1) for part in parts]).amin(dim=0)
