"""Copies of images under Gaussian noise, which classifiers for randomised smoothing are trained and validated on."""

import torch
from torch import Tensor


def noisy_copies(image: Tensor, sigma: float, num_copies: int) -> Tensor:
    """Independent Gaussian perturbations of each image.

    Args:
        image: `[B, C, H, W]`, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.
        num_copies: copies of each image, m.

    Returns:
        `[m, B, C, H, W]`, not clipped: clipping would change the distribution that is certified.
    """
    return image + sigma * torch.randn(num_copies, *image.shape, dtype=image.dtype, device=image.device)
