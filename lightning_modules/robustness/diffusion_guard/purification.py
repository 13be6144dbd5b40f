"""Operations that remove the protective noise before an image is edited: JPEG, crop and resize, and denoising."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import within
from datamodules.corruptions.clip_degradation.compression import as_jpeg


class Purification(ABC):
    """Interface of operations on an image and on the mask that the editor draws on this image."""

    @abstractmethod
    def __call__(self, image: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Purify images.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            keep: mask of the kept region, `[B, 1, H, W]`: 1 where the image is kept.

        Returns:
            Purified images and masks, with the shapes of the inputs.
        """


class JPEG(Purification):
    """Purification that compresses images as JPEG files and decodes them again.

    Args:
        quality: JPEG quality, in 1...100.
    """

    def __init__(self, quality: int = 75) -> None:
        within(1, 100, quality=quality)
        self.quality = quality

    def __call__(self, image: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        levels = image.mul(255).round().byte().movedim(1, -1).cpu().numpy()
        decoded = np.stack([as_jpeg(each, self.quality) for each in levels])
        return torch.from_numpy(decoded).movedim(-1, 1).to(image) / 255, keep


class CropAndResize(Purification):
    """Purification that cuts out the centre of images and masks, and resizes it to the original size.

    Images are resized by bilinear interpolation, and masks by nearest-neighbour interpolation.

    Args:
        fraction: height and width of the crop, relative to the image, in (0, 1].
    """

    def __init__(self, fraction: float = 0.9) -> None:
        within(0, 1, "(]", fraction=fraction)
        self.fraction = fraction

    def __call__(self, image: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        size = image.shape[-2:]
        top, left = (round((1 - self.fraction) / 2 * side) for side in size)
        image, keep = (each[..., top : size[0] - top, left : size[1] - left] for each in (image, keep))
        return F.interpolate(image, size, mode="bilinear"), F.interpolate(keep, size, mode="nearest")


class MedianFilter(Purification):
    """Purification that denoises each channel with a median filter; images are reflected at their borders.

    Args:
        size: side length of the square window, in pixels; must be odd.
    """

    def __init__(self, size: int = 3) -> None:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size must be odd and at least 1, got {size}")
        self.size = size

    def __call__(self, image: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(image, [self.size // 2] * 4, mode="reflect")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(4).median(dim=4).values, keep
