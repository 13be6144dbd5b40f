"""RandAugment on a batch of images, with the policy of torchvision or of timm.

The operations are sampled separately for each image. Pixel values are in [0, 1], and are not rounded to multiples of
1/255. Only equalisation uses 256 levels.

The policy of torchvision (`RandAugment`) samples one of fourteen operations, and applies it with a fixed strength.

The policy of timm (`TimmRandAugment`) is specified by a string such as `rand-m9-mstd0.5-inc1`, as in recipes for
ImageNet. It samples one of fifteen operations per image, with replacement, and applies the operation with probability
p. The magnitude is sampled around m and clipped to [0, mmax]. The full strength corresponds to m = 10:

    shears +- 0.03 m, shifts +- 0.045 m of a side, rotations +- 3 m degrees, int(11 m) / 255 added to the darker half,
    colour operations with the factor 0.1 + 0.18 m (with inc1: max(0.1, 1 +- 0.09 m)),
    posterize to int(0.4 m) bits (with inc1: 4 - int(0.4 m) bits),
    solarize from int(25.6 m) / 255 on (with inc1: from (256 - int(25.6 m)) / 255 on)

Because of the clipping, `m15` without `mmax` is the same as `m10`. Without `inc1`, posterize and solarize become weaker
as m increases. Differences from timm: geometric operations use bilinear interpolation, whereas timm chooses bilinear or
bicubic interpolation at random. Pixel values are not rounded to multiples of 1/255.

Sources: Cubuk, Zoph, Shlens and Le, RandAugment: Practical automated data augmentation with a reduced search space,
2020, arXiv 1909.13719; Wightman, Touvron and Jegou, ResNet strikes back: An improved training procedure in timm, 2021,
arXiv 2110.00476, and timm's code.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.views.colour import blend, with_brightness, with_contrast, with_saturation

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
NUM_BINS = 31
TORCHVISION_OPERATIONS = (
    *("identity", *GEOMETRIC, "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
FULL = 10.0
"""Magnitude that corresponds to the full strength in timm."""
TIMM_OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
NONE = -1
"""Value of an operation's index if no operation is applied to an image."""
HOST = torch.device("cpu")
DEFAULTS = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": FULL, "inc": 0.0}


def moved_grid(image: Tensor, shear: Tensor, shift: Tensor, angle: Tensor) -> Tensor:
    """Compute the grid `[B, H, W, 2]` with which the function `grid_sample` shears, translates or rotates images.

    Shearing is about the top left corner, and rotation is about the centre. At most one of `shear`, `shift` and `angle`
    should differ from 0.

    Args:
        image: `[B, C, H, W]`.
        shear: two numbers per image, `[B, 2]`: the change of the source column per row, and of the source row per
            column.
        shift: translation in pixels, to the right and down, `[B, 2]`.
        angle: rotation in radians, counterclockwise, `[B]`.
    """
    height, width = image.shape[-2:]
    dtype = image.dtype
    shear, shift, angle = shear.to(dtype), shift.to(dtype), angle.to(dtype)
    x = torch.arange(width, device=image.device, dtype=dtype) - (width - 1) / 2
    y = torch.arange(height, device=image.device, dtype=dtype)[:, None] - (height - 1) / 2
    cosine, sine = (value[:, None, None] for value in (angle.cos(), angle.sin()))
    source_x = (cosine * x - sine * y).sub_(shift[:, 0, None, None]).add_(shear[:, 0, None, None] * (y + height / 2))
    source_y = (sine * x + cosine * y).sub_(shift[:, 1, None, None]).add_(shear[:, 1, None, None] * (x + width / 2))
    # The coordinates are stacked as two planes, which `grid_sample` reads as fast as interleaved coordinates.
    # Interleaving them would take longer than sampling the nearest pixels.
    return torch.stack([source_x.mul_(2).div_(width), source_y.mul_(2).div_(height)], dim=1).permute(0, 2, 3, 1)


def with_sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """Scale the sharpness by factors `[B]`: 0 smooths the image except at its border, 1 gives the original image."""
    height, width = image.shape[2:]
    if height <= 2 or width <= 2:
        return image
    # The sum over the nine shifts is bitwise equal to a float32 convolution, which is 16 times slower on a CPU.
    first, *others = (
        image[:, :, row : height - 2 + row, column : width - 2 + column] for row in range(3) for column in range(3)
    )
    inner = first * (1 / 13)
    for place, pixel in enumerate(others, start=1):
        inner.add_(pixel, alpha=(5 if place == 4 else 1) / 13)
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = inner
    return blend(image, smooth, factor)


def posterize(image: Tensor, bits: int | Tensor) -> Tensor:
    """Quantise values to 2^bits levels, rounding down.

    The value 1 is mapped to the highest level. `bits` is a single number, or a tensor `[B, 1, 1, 1]`.
    """
    levels = 2**bits
    return torch.minimum((image * levels).floor_(), image.new_ones(()) * (levels - 1)).div_(levels)


def solarize(image: Tensor, threshold: float | Tensor) -> Tensor:
    """Invert all values that are at least the threshold.

    The threshold is a single number, or a tensor `[B, 1, 1, 1]`.
    """
    # With weights 0 and 1, `lerp` is bitwise equal to `where`, and six times faster for an irregular mask.
    return image.lerp(1 - image, image.detach().clone().ge_(threshold))


def autocontrast(image: Tensor) -> Tensor:
    """Rescale the values of each channel to [0, 1].

    Constant channels are not changed.
    """
    least, greatest = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    span = greatest - least
    return (image - torch.where(span > 0, least, 0)).div_(torch.where(span > 0, span, 1))


def equalize(image: Tensor) -> Tensor:
    """Equalise the 256-level histogram of each channel, as in Pillow."""
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
    """Apply one of several functions to each image.

    Args:
        image: `[B, C, H, W]`.
        operation: each image's key in `functions`, `[B]`, int64, on the host to avoid a synchronisation. An image whose
            key is not in `functions` is not changed.
        functions: dict that maps keys to functions. A function is called with the b images that have its key, `[b, C,
            H, W]`, and with their positions in the batch, `[b]`, and returns the changed images.
    """
    result = image.clone()
    for number in sorted(functions.keys() & operation.tolist()):
        rows = (operation == number).nonzero()[:, 0].to(image.device, non_blocking=True)
        result.index_copy_(0, rows, functions[number](image.index_select(0, rows), rows))
    return result


@dataclass(frozen=True)
class Strengths:
    """Strengths of the operations for a batch.

    Each tensor has one value per image.
    """

    amount: Mapping[str, Tensor]
    """Strengths of the geometric operations, by name, `[B]`: shears, translations in pixels, rotation in radians."""
    factor: Tensor
    """Factor of the colour operations, `[B]`; 1 does not change an image."""
    bits: int | Tensor
    """Number of bits of posterize; a tensor is `[B, 1, 1, 1]`."""
    threshold: float | Tensor
    """Threshold of solarize, in [0, 1]; a tensor is `[B, 1, 1, 1]`."""
    added: float | Tensor = 0.0
    """Value that solarize_add adds, in [0, 1]; a tensor is `[B, 1, 1, 1]`."""


def apply_operations(
    image: Tensor,
    operation: Tensor,
    names: Sequence[str],
    strengths: Strengths,
    resample: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Apply the selected operation to each image.

    Args:
        image: `[B, C, H, W]` in [0, 1].
        operation: for each image, the index of the operation in `names`, or `NONE`, `[B]`, int64, on the host.
        names: names of the operations of the policy.
        strengths: strengths of the operations.
        resample: function that maps images and a grid of source positions, `[B, H, W, 2]`, to the images sampled at
            these positions.
    """

    def move(name: str, image: Tensor, rows: Tensor) -> Tensor:
        amount = strengths.amount[name][rows]
        step = dict.fromkeys(GEOMETRIC, torch.zeros_like(amount)) | {name: amount}
        shear, shift = (
            torch.stack([step[f"{kind}_{axis}"] for axis in "xy"], dim=1) for kind in ("shear", "translate")
        )
        return resample(image, moved_grid(image, shear, shift, step["rotate"]))

    def of(strength: Any, rows: Tensor) -> Any:
        return strength[rows] if isinstance(strength, Tensor) else strength

    factor = strengths.factor
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        **{name: partial(move, name) for name in GEOMETRIC},
        "brightness": lambda image, rows: with_brightness(image, factor[rows]),
        "color": lambda image, rows: with_saturation(image, factor[rows]),
        "contrast": lambda image, rows: with_contrast(image, factor[rows]),
        "sharpness": lambda image, rows: with_sharpness(image, factor[rows]),
        "posterize": lambda image, rows: posterize(image, of(strengths.bits, rows)),
        "solarize": lambda image, rows: solarize(image, of(strengths.threshold, rows)),
        "solarize_add": lambda image, rows: image.lerp(
            (image + of(strengths.added, rows)).clamp_(max=1), image.detach().clone().lt_(128 / 255)
        ),
        "invert": lambda image, _: 1 - image,
        "autocontrast": lambda image, _: autocontrast(image),
        "equalize": lambda image, _: equalize(image),
    }
    return each_on_its_rows(
        image, operation, {number: functions[name] for number, name in enumerate(names) if name in functions}
    )


class RandAugment(nn.Module):
    """Apply RandAugment with torchvision's operations, ranges and signs, but sample for each image, not for each batch.

    Args:
        num_ops: number of operations that are applied in sequence, at least 1.
        magnitude: strength of the operations, in 0...30.
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
            operation = sample_rows(partial(torch.randint, len(TORCHVISION_OPERATIONS)), (len(image),), HOST)
            sign = 2 * sample_rows(partial(torch.randint, 2), (len(image),), image.device) - 1
            image = self.apply_operations(image, operation, sign)
        return image

    def apply_operations(self, image: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
        """Apply the selected operation to each image.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            operation: for each image, the index of the operation in `TORCHVISION_OPERATIONS`, `[B]`, int64, on the
                host.
            sign: direction of each image's operation, 1 or -1, `[B]`; operations without a direction ignore it.
        """
        strength = self.magnitude / (NUM_BINS - 1)
        height, width = image.shape[-2:]
        amount = {
            "shear_x": 0.3 * strength,
            "shear_y": 0.3 * strength,
            "translate_x": float(int(150 / 331 * width * strength)),
            "translate_y": float(int(150 / 331 * height * strength)),
            "rotate": math.radians(30 * strength),
        }
        strengths = Strengths(
            {name: sign * each for name, each in amount.items()},
            factor=1 + 0.9 * strength * sign,
            bits=8 - round(self.magnitude / ((NUM_BINS - 1) / 4)),
            threshold=1 - strength,
        )

        def nearest(image: Tensor, grid: Tensor) -> Tensor:
            return F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=False)

        return apply_operations(image, operation, TORCHVISION_OPERATIONS, strengths, nearest)


def parse_recipe(recipe: str) -> dict[str, float]:
    """Parse timm's RandAugment string into its parts m, n, p, mstd, mmax and inc."""
    first, *parts = recipe.split("-")
    found = [re.fullmatch(r"(m|n|p|mstd|mmax|inc)(\d+\.?\d*|inf)", part) for part in parts]
    if first != "rand" or not all(found):
        raise ValueError(f"recipe must be rand-<part>-<part>... with parts m, n, p, mstd, mmax and inc, got {recipe!r}")
    return DEFAULTS | {match[1]: float(match[2]) for match in found if match}


def moved_over(image: Tensor, grid: Tensor, fill: float) -> Tensor:
    """Sample images at a grid of source positions by bilinear interpolation.

    Pixels whose source is outside the image are set to a grey value.

    Args:
        image: `[B, C, H, W]`.
        grid: source positions, `[B, H, W, 2]`.
        fill: grey value of pixels whose source is outside the image.
    """
    x, y = grid[:, None].unbind(dim=4)
    inside = (x >= -1) & (x < 1) & (y >= -1) & (y < 1)
    return torch.where(inside, F.grid_sample(image, grid, padding_mode="border", align_corners=False), fill)


class TimmRandAugment(nn.Module):
    """Apply RandAugment with the operations and random magnitudes of timm, sampled per image.

    Args:
        recipe: string in the format of timm: `rand`, followed by parts in any order. The parts are the magnitude m
            (0...10, or 0...mmax), the number n of operations, the probability p, the standard deviation mstd of the
            magnitude, the upper bound mmax, and the flag inc. If mstd is above 100, the magnitude is uniform in [0, m].
            With inc, all operations that depend on m become stronger as m increases.
        fill: grey value of pixels whose source is outside the image, in [0, 1].
    """

    def __init__(self, recipe: str = "rand-m9-mstd0.5-inc1", fill: float = 0.5) -> None:
        super().__init__()
        parts = parse_recipe(recipe)
        within(0, 1, fill=fill, p=parts["p"])
        self.recipe = recipe
        self.fill = fill
        self.magnitude, self.deviation, self.bound = parts["m"], parts["mstd"], parts["mmax"]
        self.num_ops, self.probability, self.increasing = int(parts["n"]), parts["p"], bool(parts["inc"])

    def forward(self, image: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            shape, device = (len(image),), image.device
            operation = sample_rows(partial(torch.randint, len(TIMM_OPERATIONS)), shape, HOST)
            sign = 2 * sample_rows(partial(torch.randint, 2), shape, device) - 1
            magnitude = self._magnitudes(shape, device)
            operation[sample_rows(torch.rand, shape, HOST) >= self.probability] = NONE
            image = self.apply_operations(image, operation, magnitude, sign)
        return image

    def _magnitudes(self, shape: tuple[int], device: torch.device) -> Tensor:
        if self.deviation > 100:
            drawn = self.magnitude * sample_rows(torch.rand, shape, device)
        elif self.deviation:
            drawn = self.magnitude + self.deviation * sample_rows(torch.randn, shape, device)
        else:
            drawn = torch.full(shape, self.magnitude, device=device)
        return drawn.clamp(0, self.bound)

    def apply_operations(self, image: Tensor, operation: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:
        """Apply the selected operation to each image.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            operation: index of each image's operation in `TIMM_OPERATIONS`, or `NONE`; `[B]`, int64, on the host.
            magnitude: magnitude of each image's operation, in 0...mmax, `[B]`.
            sign: direction of each image's operation, 1 or -1, `[B]`; operations without a direction ignore it.
        """
        level = (magnitude / FULL).to(image.dtype)
        signed, height, width = sign * level, image.shape[-2], image.shape[-1]
        amount = {
            "rotate": math.radians(30),
            "shear_x": 0.3,
            "shear_y": 0.3,
            "translate_x": -0.45 * width,
            "translate_y": -0.45 * height,
        }
        bits, threshold, added = (
            (number * magnitude / FULL).floor().to(image.dtype).view(-1, 1, 1, 1) for number in (4, 256, 110)
        )
        bits, threshold = (4 - bits, 256 - threshold) if self.increasing else (bits, threshold)
        strengths = Strengths(
            {name: each * signed for name, each in amount.items()},
            factor=(1 + 0.9 * signed).clamp(min=0.1) if self.increasing else 0.1 + 1.8 * level,
            bits=bits,
            threshold=threshold / 255,
            added=added.clamp(max=128) / 255,
        )
        return apply_operations(image, operation, TIMM_OPERATIONS, strengths, partial(moved_over, fill=self.fill))
