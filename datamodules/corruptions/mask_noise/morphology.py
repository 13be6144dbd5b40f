"""Mask noise that makes objects too small or too large.

Objects shrink or grow by a fixed number of pixels, or in proportion to their size.

In each image, either all objects are under-segmented (eroded) or all are over-segmented (dilated). Classes are
processed one after another. Pixels that erosion removes become background. Background pixels that dilation reaches are
assigned the class of the object.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise.interface import uniform_integers, uniform_of_each

Mode = Literal["erode", "dilate", "either"]
_MASKS_AT_ONCE = 256


def _drawn_modes(mode: Mode, uniform: Tensor) -> Tensor:
    """Choose which masks to dilate, `[N]`, bool.

    All other masks are eroded.
    """
    return uniform < 0.5 if mode == "either" else torch.full(uniform.shape, mode == "dilate")


class ErosionDilation:
    """Erode or dilate all objects of an image by the same number of pixels, with a square structuring element.

    Small objects change relatively more than large objects, and small objects may vanish. Classes are processed in the
    order of their numbers. Masks are padded by replication; erosion therefore does not detach objects from the image
    border.

    Args:
        min_pixels: smallest number of pixels by which the border of objects moves.
        max_pixels: largest number of pixels by which the border of objects moves. The number is sampled uniformly for
            each image. If `max_pixels` is 0, masks are unchanged.
        mode: "erode", "dilate" or "either". With "either", each image is randomly either eroded or dilated.
        seed: seed of the noise. None means the seed of the DataModule.
    """

    def __init__(
        self, min_pixels: int = 2, max_pixels: int = 3, mode: Mode = "either", seed: int | None = None
    ) -> None:
        at_least(0, min_pixels=min_pixels, seed=seed)
        at_least(min_pixels, max_pixels=max_pixels)
        one_of(get_args(Mode), mode=mode)
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.mode = mode
        self.seed = seed

    def apply(self, mask: Tensor, num_classes: int, index: Tensor | None = None) -> Tensor:
        uniform = uniform_of_each(self.seed, type(self).__name__, index, len(mask), count=2)
        dilated = _drawn_modes(self.mode, uniform[:, 0])
        pixels = uniform_integers(uniform[:, 1], self.min_pixels, self.max_pixels)
        result = mask.clone()
        for dilate in (False, True):
            for reach in range(max(self.min_pixels, 1), self.max_pixels + 1):
                chosen = ((pixels == reach) & (dilated == dilate)).nonzero().flatten()
                for part in chosen.split(_MASKS_AT_ONCE):
                    result[part] = _resized_objects(mask[part], num_classes, reach, dilate)
        return result


def _resized_objects(mask: Tensor, num_classes: int, reach: int, dilate: bool) -> Tensor:
    """Erode or dilate the objects of all masks `[N, H, W]` by `reach` pixels."""

    def dilation(member: Tensor) -> Tensor:
        for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
            member = F.max_pool2d(member, kernel, stride=1, padding=padding)
        return member

    for category in range(1, num_classes):
        member = (mask == category).float()[:, None]
        if dilate:
            mask = torch.where((dilation(member)[:, 0] > 0) & (mask == 0), category, mask)
        else:
            remains = dilation(1 - member)[:, 0] == 0
            mask = torch.where((member[:, 0] > 0) & ~remains, 0, mask)
    return mask


class OverUnderSegmentation:
    """Erode or dilate each object in proportion to its size, as in the SegTHOR experiments of ADELE.

    The classes in `order` are processed one after another. The mask of a class is resized so that the class covers
    about `target_pixels` pixels, eroded or dilated with a 3 x 3 square, and resized back. The number of erosions or
    dilations is sampled for each image. Resizing is cubic. In under-segmentation, pixels where the result differs from
    the mask become background. In over-segmentation, background pixels that the result covers are assigned the class.
    Later classes do not undo changes made for earlier classes.

    Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
    2110.03740, the authors' code (`final_noise_function`). The authors' code resizes uint8 masks with OpenCV. OpenCV's
    cubic kernel is the same as the kernel used here (a = -0.75, replicated border). OpenCV rounds the values, and the
    authors then test whether the values are above 0. This is equivalent to the threshold of 1/2 used here, up to the
    11-bit precision of OpenCV's coefficients. The authors' code uses NumPy's global generator, in the order of images,
    and changes round(`noise_level` N) images. Here, each image is changed with probability `noise_level`, and the
    random numbers depend on the position of the image in the dataset. Support for ignored pixels was added here.

    Args:
        min_iterations: smallest number of erosions or dilations.
        max_iterations: largest number of erosions or dilations. For each image, the number of iterations is sampled
            uniformly. If `max_iterations` is 0, masks are unchanged.
        mode: "erode", "dilate" or "either". With "either", each image is randomly either eroded or dilated.
        noise_level: probability that an image is changed, in [0, 1].
        order: classes to change, in this order. None means 1 ... K - 1. The authors use 1, 3, 4, 2 (oesophagus,
            trachea, aorta, heart).
        target_pixels: number of pixels that a class covers, after resizing, when it is eroded or dilated.
        seed: seed of the noise. None means the seed of the DataModule.
    """

    def __init__(
        self,
        min_iterations: int = 2,
        max_iterations: int = 4,
        mode: Mode = "either",
        noise_level: float = 1.0,
        order: list[int] | None = None,
        target_pixels: int = 1000,
        seed: int | None = None,
    ) -> None:
        at_least(0, min_iterations=min_iterations, seed=seed)
        at_least(min_iterations, max_iterations=max_iterations)
        at_least(1, target_pixels=target_pixels)
        one_of(get_args(Mode), mode=mode)
        within(0, 1, noise_level=noise_level)
        if order is not None and (min(order, default=1) < 1 or len(set(order)) < len(order)):
            raise ValueError(f"order must list distinct classes from 1 on, got {order}")
        self.min_iterations = min_iterations
        self.max_iterations = max_iterations
        self.mode = mode
        self.noise_level = noise_level
        self.order = order
        self.target_pixels = target_pixels
        self.seed = seed

    def apply(self, mask: Tensor, num_classes: int, index: Tensor | None = None) -> Tensor:
        order = list(range(1, num_classes)) if self.order is None else self.order
        if max(order, default=0) >= num_classes:
            raise ValueError(
                f"order has class {max(order)}, but there are only {num_classes} classes, including background"
            )
        uniform = uniform_of_each(self.seed, type(self).__name__, index, len(mask), count=3)
        dilated = _drawn_modes(self.mode, uniform[:, 0]).tolist()
        iterations = uniform_integers(uniform[:, 1], self.min_iterations, self.max_iterations)
        iterations[uniform[:, 2] >= self.noise_level] = 0
        result = mask.clone()
        for position, times in enumerate(iterations.tolist()):
            if times:
                changed = mask[position].numpy()
                for category in order:
                    changed = _in_proportion(changed, category, times, dilated[position], self.target_pixels)
                result[position] = torch.from_numpy(changed)
        return result


def _in_proportion(mask: np.ndarray, category: int, iterations: int, dilate: bool, target_pixels: int) -> np.ndarray:
    """Erode or dilate one class of a mask `[H, W]`, at the scale at which the class covers `target_pixels` pixels.

    Only the part of the image that can change is processed. Along each axis, let `first` and `last` be the positions of
    the first and last pixel of the class. Cubic interpolation at a position depends only on pixels less than 2 pixels
    away. Each step therefore computes only the part of its result that can be nonzero:

        inner   pixels first - 2 ... last + 2 of the image, mapped to the resized image,
        outer   inner, extended by `iterations` pixels for the dilation and 1 for rounding,
        back    outer and 2 pixels around it, mapped back to the image, extended by 1 for rounding.
    """
    member = mask == category
    pixels = int(member.sum())
    if pixels == 0:
        return mask
    ratio = (target_pixels / pixels) ** 0.5
    shape = [max(round(side * ratio), 1) for side in mask.shape]
    inner = [_nonzero_range(member.any(axis=1 - axis), 2) for axis in (0, 1)]
    outer = [
        _map(part, length, new, margin=iterations + 1)
        for part, length, new in zip(inner, mask.shape, shape, strict=True)
    ]
    back = [
        _map(slice(max(part.start - 2, 0), min(part.stop + 2, new)), new, length, margin=1)
        for part, length, new in zip(outer, mask.shape, shape, strict=True)
    ]
    resized = _cubic(member[inner[0], inner[1]], inner, mask.shape, outer, shape)
    if dilate:
        changed = maximum_filter(resized, 2 * iterations + 1, mode="constant", cval=0)
    else:
        changed = minimum_filter(resized, 2 * iterations + 1, mode="constant", cval=1)
    result = np.zeros_like(member)
    result[back[0], back[1]] = _cubic(changed, outer, shape, back, mask.shape)
    if dilate:
        return np.where(result & (mask == 0), np.uint8(category), mask)
    return np.where((result != member) & (mask != IGNORED), np.uint8(0), mask)


def _nonzero_range(occupied: np.ndarray, margin: int) -> slice:
    """Return the range from the first to the last nonzero position, extended by `margin` at both ends."""
    first, last = np.flatnonzero(occupied)[[0, -1]]
    return slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, len(occupied)))


def _map(part: slice, length: int, new_length: int, margin: int) -> slice:
    """Convert a range on an axis to the resized axis, and extend the result by `margin` at both ends."""
    scale = new_length / length
    first, last = math.floor(part.start * scale) - margin, math.ceil(part.stop * scale) + margin
    return slice(max(first, 0), min(last, new_length))


def _cubic(
    values: np.ndarray, at: list[slice], shape: Sequence[int], new_at: list[slice], new_shape: Sequence[int]
) -> np.ndarray:
    """Resize a binary image to `new_shape`, and compute only the part `new_at` of the result.

    The image is 0 outside the part `at`.
    """
    rows, columns = (_cubic_weights(shape[axis], new_shape[axis], new_at[axis])[:, at[axis]] for axis in (0, 1))
    return rows @ values.astype(np.float64) @ columns.T >= 0.5


def _cubic_weights(length: int, new_length: int, part: slice) -> np.ndarray:
    """Return the source pixels' weights for part of an axis resized cubically (a = -3/4), `[part, length]`."""
    place = (np.arange(part.start, part.stop) + 0.5) * length / new_length - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((len(place), length))
    for tap in range(4):
        distance = np.abs(place - first - tap)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        source = np.clip(first + tap, 0, length - 1)  # replicates the border
        np.add.at(weights, (np.arange(len(place)), source), np.where(distance <= 1, near, far))
    return weights
