"""Augmentation with noise: noise is added to images, or fills a random box (random erasing).

Source of random erasing: Zhong, Zheng, Kang, Li and Yang, Random Erasing Data Augmentation, AAAI 2020, arXiv
1708.04896, as in timm.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.augmentation.boxes import NUM_UNIFORM, first_fitting
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like

ERASED_AREA = (0.02, 1 / 3)
"""Smallest and largest area of a box, as fractions of the image area."""


class AddedNoise(nn.Module):
    """Add Gaussian noise: x + sigma n with n ~ N(0, 1), clipped to [0, 1].

    Args:
        sigma: standard deviation of the noise, at least 0, in pixel units.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma must be at least 0, got {sigma}")
        self.sigma = sigma

    def forward(self, image: Tensor) -> Tensor:
        return (image + self.sigma * sample_rows_like(torch.randn, image)).clamp(0, 1)


def erased_boxes(uniform: Tensor, height: int, width: int) -> Tensor:
    """Sample boxes: the area is uniform in 1/50...1/3 of the image, and the aspect ratio log-uniform in 0.3...1/0.3.

    Args:
        uniform: uniform random numbers in [0, 1), `[B, 22]`: two for the row and the column, followed by two for the
            area and the ratio in each of ten attempts.
        height: height of the images, in pixels.
        width: width of the images, in pixels.

    Returns:
        Mask of the box, `[B, H, W]`, bool. It is false everywhere if no box of the ten attempts has a smaller height
        and a smaller width than the image.
    """
    low, high = ERASED_AREA
    area = height * width * (low + uniform[:, 2::2] * (high - low))
    root = (math.log(0.3) * (1 - 2 * uniform[:, 3::2]) / 2).exp()
    tall, wide = (area.sqrt() * root).round(), (area.sqrt() / root).round()
    fits = (tall < height) & (wide < width)
    *sides, found = first_fitting(tall, wide, fits)
    inside = []
    for at, (side, length) in enumerate(zip(sides, (height, width), strict=True)):
        side = side[:, None]
        start = (uniform[:, at : at + 1] * (length - side + 1)).floor()
        place = torch.arange(length, device=uniform.device)
        inside.append((place >= start) & (place < start + side))
    return inside[0][:, :, None] & inside[1][:, None] & found[:, None, None]


class RandomErasing(nn.Module):
    """In randomly selected images, replace a random box with Gaussian noise that is clipped to [0, 1].

    This is timm's random erasing with mode `pixel`.

    Args:
        probability: probability with which an image is selected, in [0, 1].
        mean: mean of the noise, in pixel units: one number per channel, or one number for all channels. The default is
            the mean of ImageNet.
        std: standard deviation of the noise, in pixel units: one number per channel, or one number for all channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        probability: float = 0.25,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        within(0, 1, probability=probability)
        self.probability = probability
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        uniform = sample_rows(torch.rand, (len(image), 1 + NUM_UNIFORM), image.device)
        box = erased_boxes(uniform[:, 1:], *image.shape[-2:]) & (uniform[:, :1, None] < self.probability)
        noise = (self.mean + self.std * sample_rows_like(torch.randn, image)).clamp(0, 1)
        return torch.where(box[:, None], noise, image)
