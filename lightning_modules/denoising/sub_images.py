"""Pixel-shuffle downsampling: split images into sub-images of every s-th pixel, with nearly uncorrelated noise.

An image `[N, C, H, W]` is divided into cells of s x s pixels. Sub-image j = s r + c consists of pixel (r, c) of every
cell. If indices are given, a sub-image consists of the indexed pixel of each cell instead: either a random pixel
(random sub-sampler), or, for sub-image j, pixel j of a random permutation of the cell (random sub-samples). All
channels use the same index.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.tiled import apply_padded


def sub_images(image: Tensor, stride: int) -> Tensor:
    """Split images `[N, C, H, W]` into their sub-images `[s^2, N, C, H/s, W/s]`, where s is `stride`.

    Raises:
        ValueError: if height or width is not divisible by the stride.
    """
    n, c, height, width = image.shape
    if height % stride or width % stride:
        raise ValueError(f"height and width must be divisible by the stride {stride}, got {height} x {width}")
    cells = image.reshape(n, c, height // stride, stride, width // stride, stride)
    return cells.permute(3, 5, 0, 1, 2, 4).flatten(0, 1)


def merge_sub_images(sub_image: Tensor) -> Tensor:
    """Merge sub-images `[s^2, N, C, h, w]` into images `[N, C, s h, s w]`: the inverse of `sub_images`."""
    count, n, c, height, width = sub_image.shape
    stride = round(count**0.5)
    cells = sub_image.unflatten(0, (stride, stride)).permute(2, 3, 4, 0, 5, 1)
    return cells.reshape(n, c, height * stride, width * stride)


def sub_sampled(image: Tensor, index: Tensor, stride: int) -> Tensor:
    """Select pixels from each cell of images `[N, C, H, W]` by index.

    Args:
        image: the images.
        index: indices of m pixels of each cell, `[m, N, H/s, W/s]`, in 0...s^2 - 1; pixel (r, c) has index s r + c.
        stride: s, side of a cell.

    Returns:
        `[m, N, C, H/s, W/s]`.
    """
    pixels = sub_images(image, stride)
    return pixels.gather(0, index[:, :, None].expand(-1, -1, image.shape[1], -1, -1))


def through_sub_images(network: Callable[[Tensor], Tensor], image: Tensor, stride: int) -> Tensor:
    """Split images `[N, C, H, W]` into sub-images, apply a network, and merge the results."""
    split = sub_images(image, stride)
    return merge_sub_images(network(split.flatten(0, 1)).unflatten(0, split.shape[:2]))


def denoised_by_sub_images(network: Callable[[Tensor], Tensor], image: Tensor, stride: int) -> Tensor:
    """Denoise images of any size by denoising their sub-images of every `stride`-th pixel.

    Images are padded by reflection to multiples of the stride, and the result is cropped to the original size.
    """
    return apply_padded(partial(through_sub_images, network, stride=stride), image, stride)


def drawn_uniformly(image: Tensor, count: int, stride: int) -> Tensor:
    """Sample uniform numbers in [0, 1) for each cell of each image. The world size does not affect the numbers.

    Args:
        image: `[N, C, H, W]`, this rank's part of the batch.
        count: number of random numbers per cell.
        stride: side of a cell, in pixels.

    Returns:
        `[N, count, H/stride, W/stride]`.
    """
    shape = (len(image), count, image.shape[2] // stride, image.shape[3] // stride)
    return sample_rows(torch.rand, shape, image.device)
