"""RandAugment: one of fourteen operations for each image, at a fixed strength.

Operations, ranges and signs are those of torchvision's RandAugment, drawn for each image instead of once for a batch.
Colour operations act on values in [0, 1], not rounded to 1/255; equalisation alone counts 256 levels.

Source: Cubuk, Zoph, Shlens and Le, RandAugment: Practical automated data augmentation with a reduced search space,
2020, arXiv 1909.13719.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.views.colour import blended, with_brightness, with_contrast, with_saturation

NUM_BINS = 31
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
GEOMETRIC = OPERATIONS[1:6]


def moved(image: Tensor, shear: Tensor, shift: Tensor, angle: Tensor) -> Tensor:
    """Shears about the top left corner, then shifts, and turns about the centre; zeros come in, the nearest pixel is
    taken. At most one of the three is meant to differ from 0.

    Args:
        image: `[B, C, H, W]`.
        shear: `[B, 2]`: what a pixel's source column gains with its row, and its source row with its column.
        shift: `[B, 2]`: columns to the right and rows down, in pixels.
        angle: `[B]`, in radians, counterclockwise.
    """
    grid = moved_grid(image, shear, shift, angle)
    return F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def moved_grid(image: Tensor, shear: Tensor, shift: Tensor, angle: Tensor) -> Tensor:
    """Places that the pixels of a moved image come from, `[B, H, W, 2]`, for `grid_sample`; arguments as of `moved`."""
    height, width = image.shape[-2:]
    dtype = image.dtype
    shear, shift, angle = shear.to(dtype), shift.to(dtype), angle.to(dtype)
    x = torch.arange(width, device=image.device, dtype=dtype) - (width - 1) / 2
    y = torch.arange(height, device=image.device, dtype=dtype)[:, None] - (height - 1) / 2
    cosine, sine = (value[:, None, None] for value in (angle.cos(), angle.sin()))
    source_x = (cosine * x - sine * y).sub_(shift[:, 0, None, None]).add_(shear[:, 0, None, None] * (y + height / 2))
    source_y = (sine * x + cosine * y).sub_(shift[:, 1, None, None]).add_(shear[:, 1, None, None] * (x + width / 2))
    # Stacked as planes, for `grid_sample` reads those as fast, and interleaving takes longer than nearest pixels do.
    return torch.stack([source_x.mul_(2).div_(width), source_y.mul_(2).div_(height)], dim=1).permute(0, 2, 3, 1)


def with_sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """Away from a smoothed image, whose border is the image's own: 0 is smooth, 1 the image."""
    height, width = image.shape[2:]
    if height <= 2 or width <= 2:
        return image
    # Added up place by place: in float32 to the bit what a convolution gives, which takes 16 times as long on a host.
    first, *others = (
        image[:, :, row : height - 2 + row, column : width - 2 + column] for row in range(3) for column in range(3)
    )
    inner = first * (1 / 13)
    for place, pixel in enumerate(others, start=1):
        inner.add_(pixel, alpha=(5 if place == 4 else 1) / 13)
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = inner
    return blended(image, smooth, factor)


def posterized(image: Tensor, bits: int | Tensor) -> Tensor:
    """Values rounded down to 2^bits levels; 1 becomes the greatest level. Bits may be each image's, `[B, 1, 1, 1]`."""
    levels = 2**bits
    return torch.minimum((image * levels).floor_(), image.new_ones(()) * (levels - 1)).div_(levels)


def solarized(image: Tensor, threshold: float | Tensor) -> Tensor:
    """Values from the threshold on are inverted; it may be each image's, `[B, 1, 1, 1]`."""
    # `lerp` at 0 and 1 is `where` to the bit, and six times faster where the mask has no pattern.
    return image.lerp(1 - image, image.detach().clone().ge_(threshold))


def stretched(image: Tensor) -> Tensor:
    """Each channel rescaled to [0, 1]; constant ones stay."""
    least, greatest = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    span = greatest - least
    return (image - torch.where(span > 0, least, 0)).div_(torch.where(span > 0, span, 1))


def equalized(image: Tensor) -> Tensor:
    """Each channel with a flat histogram of 256 levels, as Pillow computes it."""
    level = (image * 255).round_().long().flatten(start_dim=2)
    counts = torch.zeros(*level.shape[:2], 256, dtype=torch.int64, device=image.device)
    counts.scatter_add_(2, level, torch.ones_like(level))
    last = counts.gather(2, level.amax(dim=2, keepdim=True))
    step = (level.shape[2] - last) // 255
    before = counts.cumsum(dim=2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    flat = (table / 255).to(image.dtype).gather(2, level).view_as(image)
    return torch.where(step[..., None] > 0, flat, image)


def each_on_its_rows(
    image: Tensor, operation: Tensor, functions: Mapping[int, Callable[[Tensor, Tensor], Tensor]]
) -> Tensor:
    """Apply one of several functions to each image, each function to its own images alone.

    Args:
        image: `[B, C, H, W]`.
        operation: `[B]`, int64, on the host, so that no device is waited for: which function, if any.
        functions: by number; each maps images `[b, C, H, W]` and their places in the batch `[b]` to images.
    """
    result = torch.empty_like(image)
    for number in sorted(set(operation.tolist())):
        rows = (operation == number).nonzero()[:, 0].to(image.device, non_blocking=True)
        own = image.index_select(0, rows)
        result.index_copy_(0, rows, functions[number](own, rows) if number in functions else own)
    return result


class RandAugment(nn.Module):
    """Applies operations that are drawn for each image.

    Args:
        num_ops: operations one after the other, at least 1.
        magnitude: their strength, in 0...30.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_ops: int = 1, magnitude: int = 6) -> None:
        super().__init__()
        if num_ops < 1:
            raise ValueError(f"num_ops must be at least 1, got {num_ops}")
        if not 0 <= magnitude < NUM_BINS:
            raise ValueError(f"magnitude must be in 0...{NUM_BINS - 1}, got {magnitude}")
        self.num_ops = num_ops
        self.magnitude = magnitude

    def forward(self, image: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            operation = sample_rows(partial(torch.randint, len(OPERATIONS)), (len(image),), torch.device("cpu"))
            sign = 2 * sample_rows(partial(torch.randint, 2), (len(image),), image.device) - 1
            image = self.apply_operations(image, operation, sign)
        return image

    def apply_operations(self, image: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
        """Applies to each image its operation.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            operation: `[B]`, int64, on the host: position in `OPERATIONS`.
            sign: `[B]`: 1 or -1, of what goes either way.
        """
        strength = self.magnitude / (NUM_BINS - 1)
        height, width = image.shape[-2:]
        factor, nothing = 1 + 0.9 * strength * sign, torch.zeros_like(sign, dtype=torch.get_default_dtype())
        amount = {
            "shear_x": 0.3 * strength,
            "shear_y": 0.3 * strength,
            "translate_x": float(int(150 / 331 * width * strength)),
            "translate_y": float(int(150 / 331 * height * strength)),
            "rotate": math.radians(30 * strength),
        }

        def move(name: str, image: Tensor, rows: Tensor) -> Tensor:
            step = dict.fromkeys(GEOMETRIC, nothing[rows]) | {name: sign[rows] * amount[name]}
            shear, shift = (
                torch.stack([step[f"{kind}_{axis}"] for axis in "xy"], dim=1) for kind in ("shear", "translate")
            )
            return moved(image, shear, shift, step["rotate"])

        functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            **{name: partial(move, name) for name in GEOMETRIC},
            "brightness": lambda image, rows: with_brightness(image, factor[rows]),
            "color": lambda image, rows: with_saturation(image, factor[rows]),
            "contrast": lambda image, rows: with_contrast(image, factor[rows]),
            "sharpness": lambda image, rows: with_sharpness(image, factor[rows]),
            "posterize": lambda image, _: posterized(image, 8 - round(self.magnitude / ((NUM_BINS - 1) / 4))),
            "solarize": lambda image, _: solarized(image, 1 - strength),
            "autocontrast": lambda image, _: stretched(image),
            "equalize": lambda image, _: equalized(image),
        }
        return each_on_its_rows(image, operation, {OPERATIONS.index(name): each for name, each in functions.items()})
