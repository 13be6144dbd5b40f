"""Masks whose objects are drawn too small or too large: by pixels, or by a share of each object.

In either, an image is under-segmented or over-segmented as a whole: of each category in turn, the pixels that an
erosion removes become background, or the background that a dilation reaches becomes the category.
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
from datamodules.corruptions.mask_noise.interface import uniform_of_each, whole_numbers

Mode = Literal["erode", "dilate", "either"]
_MASKS_AT_ONCE = 256


def _drawn_modes(mode: Mode, uniform: Tensor) -> Tensor:
    """Tell which masks are dilated, `[N]`; the others are eroded."""
    return uniform < 0.5 if mode == "either" else torch.full(uniform.shape, mode == "dilate")


class ErosionDilation:
    """Erode or dilate every object of an image by the same number of pixels, in a square neighbourhood.

    Small objects suffer more than large ones, up to vanishing. Categories go in the order of their numbers; beyond the
    border an image counts as more of the same, so that objects that touch it do not recede from it.

    Args:
        min_pixels: least number of pixels; with `max_pixels` 0 masks stay as they are.
        max_pixels: greatest number of pixels; each image's is drawn uniformly.
        mode: erode, dilate, or either, drawn for each image.
        seed: random seed of the noise; None takes the seed of the data.

    Raises:
        ValueError: if an argument is out of range.
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
        pixels = whole_numbers(uniform[:, 1], self.min_pixels, self.max_pixels)
        result = mask.clone()
        for dilate in (False, True):
            for reach in range(max(self.min_pixels, 1), self.max_pixels + 1):
                chosen = ((pixels == reach) & (dilated == dilate)).nonzero().flatten()
                for part in chosen.split(_MASKS_AT_ONCE):
                    result[part] = _resized_objects(mask[part], num_classes, reach, dilate)
        return result


def _resized_objects(mask: Tensor, num_classes: int, reach: int, dilate: bool) -> Tensor:
    """Erode or dilate all masks `[N, H, W]` by `reach` pixels."""

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
    """Erode or dilate each object in proportion to its size: the annotation noise of ADELE's SegTHOR experiments.

    For each category in `order`, the image is enlarged or shrunk so that the category has about `target_pixels`
    pixels, its mask is eroded or dilated with a 3 x 3 square as often as was drawn for the image, and brought back to
    the image's size, cubically both times. Under-segmentation: where the result differs from the mask, the image
    becomes background. Over-segmentation: where the result is on background, that becomes the category. Later
    categories see what became of earlier ones.

    Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
    2110.03740, the authors' code (`final_noise_function`). Theirs resizes bytes with OpenCV, whose cubic kernel is the
    one here (a = -0.75, replicated border) and whose rounding, with what is above 0, is a threshold of 1/2 up to the 11
    bits of its coefficients; it draws from NumPy's global generator in the order of the images and marks
    round(`noise_level` N) of them, where here each image is drawn by its own position and marked with that probability.
    Ignored pixels are not theirs.

    Args:
        min_iterations: least number of erosions or dilations; with `max_iterations` 0 masks stay as they are.
        max_iterations: greatest number; each image's is drawn uniformly.
        mode: erode, dilate, or either, drawn for each image.
        noise_level: probability of an image to be changed at all, in [0, 1].
        order: categories that change, in this order; None takes 1 ... K - 1. The authors' is oesophagus, trachea,
            aorta, heart: 1, 3, 4, 2.
        target_pixels: size of a category's mask, in pixels, at which it is eroded or dilated.
        seed: random seed of the noise; None takes the seed of the data.

    Raises:
        ValueError: if an argument is out of range, or, when masks are changed, `order` names a category that is not
            among the K.
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
            raise ValueError(f"order must name categories from 1 on, each once, got {order}")
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
            raise ValueError(f"order names category {max(order)}, and there are {num_classes} with the background")
        uniform = uniform_of_each(self.seed, type(self).__name__, index, len(mask), count=3)
        dilated = _drawn_modes(self.mode, uniform[:, 0]).tolist()
        iterations = whole_numbers(uniform[:, 1], self.min_iterations, self.max_iterations)
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
    """Erode or dilate one category of a mask `[H, W]` at a size of `target_pixels`.

    Only the part of the image where something can change is computed. Along an axis, with the category in pixels
    first ... last, a cubic value depends on the pixels less than 2 away from its place, so that none differs from 0 but

        inner   where pixels first - 2 ... last + 2 of the image lie when resized,
        outer   up to `iterations` pixels around it once it is dilated, and 1 for rounding;
        back    and in the image again, where outer and 2 pixels around it lie, and 1 for rounding.
    """
    member = mask == category
    pixels = int(member.sum())
    if pixels == 0:
        return mask
    ratio = (target_pixels / pixels) ** 0.5
    shape = [max(round(side * ratio), 1) for side in mask.shape]
    inner = [_reached(member.any(axis=1 - axis), 2) for axis in (0, 1)]
    outer = [
        _mapped(part, length, new, margin=iterations + 1)
        for part, length, new in zip(inner, mask.shape, shape, strict=True)
    ]
    back = [
        _mapped(slice(max(part.start - 2, 0), min(part.stop + 2, new)), new, length, margin=1)
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


def _reached(occupied: np.ndarray, margin: int) -> slice:
    """Span from the first to the last place that is occupied, with a margin."""
    first, last = np.flatnonzero(occupied)[[0, -1]]
    return slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, len(occupied)))


def _mapped(part: slice, length: int, new_length: int, margin: int) -> slice:
    """Find a part of a side in the resized side, with a margin."""
    scale = new_length / length
    first, last = math.floor(part.start * scale) - margin, math.ceil(part.stop * scale) + margin
    return slice(max(first, 0), min(last, new_length))


def _cubic(
    values: np.ndarray, at: list[slice], shape: Sequence[int], new_at: list[slice], new_shape: Sequence[int]
) -> np.ndarray:
    """Compute part `new_at` of a binary image resized to `new_shape`; only its part `at` is not 0 everywhere."""
    rows, columns = (_cubic_weights(shape[axis], new_shape[axis], new_at[axis])[:, at[axis]] for axis in (0, 1))
    return rows @ values.astype(np.float64) @ columns.T >= 0.5


def _cubic_weights(length: int, new_length: int, part: slice) -> np.ndarray:
    """Weigh source pixels, `[part, length]`, for part of a resized side, by Keys' kernel with a = -3/4."""
    place = (np.arange(part.start, part.stop) + 0.5) * length / new_length - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((len(place), length))
    for tap in range(4):
        distance = np.abs(place - first - tap)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        source = np.clip(first + tap, 0, length - 1)  # beyond the border is what is at it
        np.add.at(weights, (np.arange(len(place)), source), np.where(distance <= 1, near, far))
    return weights
