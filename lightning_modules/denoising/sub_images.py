"""Images of every s-th pixel, in which the noise of neighbouring pixels of a camera hardly correlates.

An image of `[N, C, H, W]` falls into cells of s x s pixels. Sub-image j = s r + c takes pixel (r, c) of every cell, or
of each cell a pixel that an index names: a random one (a random sub-sampler), or the j-th of a random permutation
(random sub-samples). All channels have the same index.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.tiled import padded


def sub_images(image: Tensor, stride: int) -> Tensor:
    """Split images `[N, C, H, W]` into their sub-images `[s^2, N, C, H/s, W/s]`, for s `stride`.

    Raises:
        ValueError: if the stride does not divide height and width.
    """
    n, c, height, width = image.shape
    if height % stride or width % stride:
        raise ValueError(f"a stride of {stride} must divide height and width of the images, got {height} x {width}")
    cells = image.reshape(n, c, height // stride, stride, width // stride, stride)
    return cells.permute(3, 5, 0, 1, 2, 4).flatten(0, 1)


def joined(sub_image: Tensor) -> Tensor:
    """Put sub-images `[s^2, N, C, h, w]` together to images `[N, C, s h, s w]`: the inverse of `sub_images`."""
    count, n, c, height, width = sub_image.shape
    stride = round(count**0.5)
    cells = sub_image.unflatten(0, (stride, stride)).permute(2, 3, 4, 0, 5, 1)
    return cells.reshape(n, c, height * stride, width * stride)


def sub_sampled(image: Tensor, index: Tensor, stride: int) -> Tensor:
    """Take from each cell of images `[N, C, H, W]` the pixels that an index names.

    Args:
        image: the images.
        index: `[m, N, H/s, W/s]`, in 0...s^2 - 1: m pixels of each cell, by number s r + c of row and column.
        stride: s.

    Returns:
        `[m, N, C, H/s, W/s]`.
    """
    pixels = sub_images(image, stride)
    return pixels.gather(0, index[:, :, None].expand(-1, -1, image.shape[1], -1, -1))


def through_sub_images(network: Callable[[Tensor], Tensor], image: Tensor, stride: int) -> Tensor:
    """Map the sub-images of images `[N, C, H, W]` by a network, and put the results together."""
    split = sub_images(image, stride)
    return joined(network(split.flatten(0, 1)).unflatten(0, split.shape[:2]))


def denoised_by_sub_images(network: Callable[[Tensor], Tensor], image: Tensor, stride: int) -> Tensor:
    """Map the sub-images of images of any size, reflected up to multiples of the stride, and cut that off again."""
    return padded(partial(through_sub_images, network, stride=stride), image, stride)


def drawn_uniformly(image: Tensor, count: int, stride: int) -> Tensor:
    """Draw numbers in [0, 1) for each cell of images, the same on any number of processes.

    Args:
        image: `[N, C, H, W]`, a process's part of the batch.
        count: numbers of a cell.
        stride: side of a cell, in pixels.

    Returns:
        `[N, count, H/stride, W/stride]`.
    """
    shape = (len(image), count, image.shape[2] // stride, image.shape[3] // stride)
    return sample_rows(torch.rand, shape, image.device)
