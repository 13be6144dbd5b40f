"""Augmentation of BYOL, computed on the device of the batch and sampled independently for each image.

Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, arXiv 2006.07733, for the two views of photographs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.views.colour import ColourJitter
from lightning_modules.views.crops import RandomResizedCrop


def gaussian_blur(image: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Convolve each image with its own Gaussian, which is truncated and normalised; images are padded by reflection.

    Args:
        image: `[B, C, H, W]`.
        sigma: standard deviations of the Gaussians, in pixels, `[B]`.
        radius: radius at which the Gaussians are truncated, in pixels; it must be less than H and less than W.
    """
    batch, channels, height, _ = image.shape
    place = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = (-0.5 * (place / sigma.to(image.dtype)[:, None]).square()).softmax(dim=1)
    kernel = kernel.repeat_interleave(channels, dim=0)
    stacked = F.pad(image, [radius] * 4, mode="reflect").view(1, batch * channels, height + 2 * radius, -1)
    down = F.conv2d(stacked, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(down, kernel[:, None, None, :], groups=batch * channels).view_as(image)


class GaussianBlur(nn.Module):
    """Blur randomly selected images.

    Args:
        probability: probability that an image is blurred, in [0, 1].
        sigma: smallest and largest standard deviation of the Gaussian, in pixels. For each image, a random value
            between them is used.
    """

    def __init__(self, probability: float = 1.0, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        super().__init__()
        self.probability = probability
        self.sigma = sigma

    def forward(self, image: Tensor) -> Tensor:
        uniform = sample_rows(torch.rand, (2, len(image)), image.device, rows=1)
        radius = min(math.ceil(3 * self.sigma[1]), min(image.shape[-2:]) - 1)
        smooth = gaussian_blur(image, self.sigma[0] + uniform[0] * (self.sigma[1] - self.sigma[0]), radius)
        return torch.where((uniform[1] < self.probability).view(-1, 1, 1, 1), smooth, image)


class Solarize(nn.Module):
    """Solarise randomly selected images: invert values of 1/2 or more.

    Args:
        probability: probability that an image is solarised, in [0, 1].
    """

    def __init__(self, probability: float = 0.2) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, image: Tensor) -> Tensor:
        chosen = sample_rows(torch.rand, (len(image),), image.device).view(-1, 1, 1, 1) < self.probability
        return torch.where(chosen & (image >= 0.5), 1 - image, image)


class BYOLView(nn.Sequential):
    """Apply a random resized crop, mirroring, colour jitter, blur and solarisation.

    Args:
        blur_probability: probability of the blur. BYOL uses 1 for the first view of a pair, and .1 for the second view.
        solarize_probability: probability of solarisation. BYOL uses 0 for the first view of a pair, and .2 for the
            second view.
        min_area: smallest area of the crop, as a fraction of the image area.
    """

    def __init__(
        self, blur_probability: float = 1.0, solarize_probability: float = 0.0, min_area: float = 0.08
    ) -> None:
        within(0, 1, "[]", blur_probability=blur_probability, solarize_probability=solarize_probability)
        super().__init__(
            RandomResizedCrop(min_area=min_area, flip=True),
            ColourJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            GaussianBlur(blur_probability),
            Solarize(solarize_probability),
        )


class AffineJitter(nn.Module):
    """Apply a small random rotation, scaling and translation.

    Use this view for drawings, for which colour jitter and crops are not suitable.

    Args:
        degrees: maximum rotation in either direction, in degrees.
        scale: maximum deviation of the scale from 1, in [0, 1).
        shift: maximum translation along each axis, in pixels.
    """

    def __init__(self, degrees: float = 15.0, scale: float = 0.15, shift: float = 1.0) -> None:
        super().__init__()
        within(0, 1, "[)", scale=scale)
        self.degrees = degrees
        self.scale = scale
        self.shift = shift

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        uniform = sample_rows(torch.rand, (4, len(image)), image.device, rows=1, dtype=image.dtype)
        angle, size, right, down = 2 * uniform - 1
        angle, size = math.radians(self.degrees) * angle, 1 + self.scale * size
        cosine, sine = angle.cos() / size, angle.sin() / size
        right, down = 2 * self.shift * right / width, 2 * self.shift * down / height
        rows = torch.stack([cosine, -sine * height / width, right, sine * width / height, cosine, down], dim=1)
        grid = F.affine_grid(rows.view(-1, 2, 3), list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
