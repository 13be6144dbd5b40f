"""Multiplicative noise with smooth random masks.

A mask is a coarse grid of random values, enlarged to the size of the image and then blurred.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from datamodules.arguments import at_least, positive
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.randomness.counter import RNG


def check_mask(grid: int, kernel: int, sigma: float) -> None:
    """Reject arguments of `smooth` that are out of range."""
    at_least(1, grid=grid, kernel=kernel)
    positive(sigma=sigma)
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")


def fit_mask(image_shape: tuple[int, ...], grid: int, kernel: int) -> None:
    """Reject a grid with more cells per side than the image has pixels, and a kernel too large for the image."""
    side = min(image_shape[-2:])
    if grid > side:
        raise ValueError(f"grid must be at most {side}, the side of an image, got {grid}")
    if kernel // 2 >= side:
        raise ValueError(f"kernel must be less than twice the side of an image, {side}, got {kernel}")


def smooth(cells: Tensor, size: tuple[int, int], kernel: int, sigma: float) -> Tensor:
    """Enlarge a grid to the size of an image, and blur it.

    Before the blur, pixel i along an axis with H pixels has the value of cell floor(i g / H).

    Args:
        cells: values of the g x g grid cells, `[B, g g]`.
        size: height H and width W of the image.
        kernel: side of the Gaussian kernel in pixels, an odd number. The border of the image is padded by reflection.
        sigma: standard deviation of the kernel in pixels.

    Returns:
        Masks, `[B, 1, H, W]`. If the cells are in [0, 1], so are the masks.
    """
    grid = round(cells.shape[1] ** 0.5)
    mask = F.interpolate(cells.view(-1, 1, grid, grid), size)
    return gaussian_blur(mask, [kernel, kernel], [sigma, sigma])


@dataclass(frozen=True)
class SmoothMask(ImageNoise):
    """Multiply images by smooth random masks: y = c + M (x - c), M in [0, 1].

    Args:
        grid: number g of grid cells per side.
        kernel: side of the Gaussian kernel in pixels, an odd number.
        sigma: standard deviation of the kernel in pixels.
        mean: value c, which y has where the mask is 0.
    """

    grid: int = 8
    kernel: int = 3
    sigma: float = 1.5
    mean: float = 0.0

    def __post_init__(self) -> None:
        check_mask(self.grid, self.kernel, self.sigma)

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        fit_mask(tuple(clean.shape), self.grid, self.kernel)
        cells = numbers.uniform(clean.new_empty(len(clean), 1, self.grid, self.grid)).flatten(1)
        mask = smooth(cells.to(clean.dtype), (clean.shape[2], clean.shape[3]), self.kernel, self.sigma)
        return torch.lerp(torch.full_like(clean, self.mean), clean, mask)
