"""Metrics of interpolations: normality of latents, smoothness of image sequences, and distances to real images."""

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192
"""Number of training images that one distance computation processes."""


def latent_statistics(latent: Tensor) -> dict[str, Tensor]:
    """Compute statistics of the values of each latent, `[B, ...]`; each statistic is `[B]`.

    The statistics are the standard deviation, the kurtosis, the fraction of values with a magnitude above 2, and the
    root mean square. For standard normal noise, they are 1, 3, 0.0455 and 1.
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


def image_distances(first: Tensor, second: Tensor) -> Tensor:
    """Compute Euclidean distances between images, `[..., C, H, W]`, in pixel units; the result is `[...]`."""
    return (first - second).flatten(-3).norm(dim=-1)


def frame_measures(frames: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Compute metrics of image sequences, `[B, L, C, H, W]`, and their end images, `[B, C, H, W]`; each is `[B]`.

    `out_of_range` is the fraction of pixels outside [0, 1]. All other metrics use clipped pixels. `distance_to_ends` is
    the mean distance between interpolated images and end images. `mean_step` and `largest_step` are the mean and the
    maximum distance between consecutive images; for these two metrics, the end images belong to the sequence.
    """
    clipped = frames.clamp(0, 1)
    row = torch.cat([first[:, None], clipped, second[:, None]], dim=1)
    steps = image_distances(row[:, 1:], row[:, :-1])
    to_ends = (image_distances(clipped, first[:, None]) + image_distances(clipped, second[:, None])) / 2
    return {
        "out_of_range": ((frames < 0) | (frames > 1)).to(frames.dtype).flatten(1).mean(dim=1),
        "distance_to_ends": to_ends.mean(dim=1),
        "mean_step": steps.mean(dim=1),
        "largest_step": steps.amax(dim=1),
    }


def nearest_distances(images: Tensor, stored: Tensor, data_range: int) -> Tensor:
    """Compute the distance from each image to the nearest training image.

    Args:
        images: images, `[n, C, H, W]`, where 0 is black and 1 is white.
        stored: training images, `[N, C, H, W]`, with values from 0 to `data_range`, on any device.
        data_range: maximum pixel value of `stored`.

    Returns:
        Distances, `[n]`, in the units of images in [0, 1].
    """
    flat = images.flatten(1)
    parts = (part.to(flat).flatten(1) / data_range for part in stored.split(ROWS_AT_ONCE))
    return torch.stack([torch.cdist(flat, part).amin(dim=1) for part in parts]).amin(dim=0)
