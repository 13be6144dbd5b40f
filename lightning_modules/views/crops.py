"""Random crops and mirroring of images, sampled independently for each image.

Boxes of random area have the same distribution as in torchvision's `RandomResizedCrop`, except that their edges are not
rounded to pixels. Boxes are resized by bicubic interpolation. Antialiasing is left out, because boxes are rarely larger
than the result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.augmentation.boxes import NUM_UNIFORM, first_fitting, random_sides
from datamodules.randomness.shared_batches import sample_rows

RATIO = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio (width divided by height) of a box."""


def crop_at(image: Tensor, top: Tensor, left: Tensor, size: int, mirror: Tensor) -> Tensor:
    """Crop a square from each image.

    Args:
        image: `[B, C, H, W]`.
        top: first row of each square, `[B]`, int64.
        left: first column of each square, `[B]`, int64.
        size: side length of the squares, at most H and W.
        mirror: whether to mirror each square horizontally, `[B]`, bool.

    Returns:
        `[B, C, size, size]`.
    """
    place = torch.arange(size, device=image.device)
    row = top[:, None] + place
    column = left[:, None] + torch.where(mirror[:, None], size - 1 - place, place)
    batch = torch.arange(len(image), device=image.device)[:, None, None]
    return image[batch, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2).contiguous()


def boxes_of_random_area(uniform: Tensor, height: int, width: int, min_area: float) -> Tensor:
    """Sample boxes whose area is uniform, and whose aspect ratio is log-uniform in 3/4...4/3.

    Args:
        uniform: uniform random numbers in [0, 1), `[B, 22]`: two for the row and the column, followed by two for the
            area and the ratio in each of ten attempts.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        min_area: smallest area of a box, as a fraction of the image area.

    Returns:
        Boxes `[B, 4]`: top, left, height and width, in pixels. If the boxes of all ten attempts exceed the image, the
        result is the largest centred box with an allowed ratio.
    """
    tall, wide = random_sides(uniform, height, width, (min_area, 1.0), RATIO)
    box_height, box_width, found = first_fitting(tall, wide, (tall <= height) & (wide <= width))
    box_width = torch.where(found, box_width, min(width, height * RATIO[1]))
    box_height = torch.where(found, box_height, min(height, width * RATIO[1]))
    row, column = torch.where(found[:, None], uniform[:, :2], 0.5).unbind(dim=1)
    return torch.stack([row * (height - box_height), column * (width - box_width), box_height, box_width], dim=1)


def crop_and_resize(image: Tensor, box: Tensor, size: int, mirror: Tensor) -> Tensor:
    """Crop a box from each image, and resize it to a square.

    Args:
        image: `[B, C, H, W]` in [0, 1].
        box: boxes `[B, 4]`: top, left, height and width, in pixels.
        size: side length of the squares, in pixels.
        mirror: whether to mirror each square horizontally, `[B]`, bool.

    Returns:
        `[B, C, size, size]` in [0, 1].
    """
    height, width = image.shape[-2:]
    top, left, box_height, box_width = box.to(image.dtype).unbind(dim=1)
    place = (torch.arange(size, device=image.device, dtype=image.dtype) + 0.5) / size
    across = torch.where(mirror[:, None], 1 - place, place)
    y = 2 * (top[:, None] + place * box_height[:, None]) / height - 1
    x = 2 * (left[:, None] + across * box_width[:, None]) / width - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    sampled = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp(0, 1)


class RandomCrop(nn.Module):
    """Pad images with zeros, crop a square at a random position, and mirror half of the images.

    Args:
        size: side length of the square, in pixels; None uses the size of the images.
        padding: width of the zero padding on each side, in pixels.
        flip: whether to mirror images horizontally with probability 1/2.
    """

    def __init__(self, size: int | None = None, padding: int = 4, flip: bool = True) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if padding < 0:
            raise ValueError(f"padding must be at least 0, got {padding}")
        self.size = size
        self.padding = padding
        self.flip = flip

    def forward(self, image: Tensor) -> Tensor:
        size = self.size or image.shape[-1]
        padded = F.pad(image, [self.padding] * 4)
        uniform = sample_rows(torch.rand, (3, len(image)), image.device, rows=1)
        top, left = ((uniform[at] * (padded.shape[2 + at] - size + 1)).long() for at in range(2))
        return crop_at(padded, top, left, size, (uniform[2] < 0.5) & self.flip)


class RandomResizedCrop(nn.Module):
    """Crop a box with random area, aspect ratio and position from each image, and resize it to a square.

    Args:
        size: height and width of the result, in pixels; None uses the height of the images.
        min_area: smallest area of a box, as a fraction of the image area, in (0, 1].
        flip: whether to mirror images horizontally with probability 1/2.
    """

    def __init__(self, size: int | None = None, min_area: float = 0.08, flip: bool = False) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if not 0 < min_area <= 1:
            raise ValueError(f"min_area must be in (0, 1], got {min_area}")
        self.size = size
        self.min_area = min_area
        self.flip = flip

    def forward(self, image: Tensor) -> Tensor:
        uniform = sample_rows(torch.rand, (len(image), 1 + NUM_UNIFORM), image.device)
        box = boxes_of_random_area(uniform[:, 1:], image.shape[2], image.shape[3], self.min_area)
        return crop_and_resize(image, box, self.size or image.shape[2], (uniform[:, 0] < 0.5) & self.flip)
