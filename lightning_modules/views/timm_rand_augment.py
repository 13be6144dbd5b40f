"""RandAugment as timm has it, by its strings such as `rand-m9-mstd0.5-inc1`: the operations of recipes for ImageNet.

An operation is one of fifteen, drawn with replacement for each image and then left out or not, at a magnitude that is
drawn around m and clipped to [0, mmax], of which 10 is full strength:

    shears +- 0.03 m, shifts +- 0.045 m of a side, turns +- 3 m degrees, int(11 m) / 255 added to the darker half,
    colour operations at a factor of 0.1 + 0.18 m, or with inc1 of max(0.1, 1 +- 0.09 m),
    posterize to int(0.4 m) bits and solarize from int(25.6 m) / 255 on; with inc1 4 - int(0.4 m) and 256 - int(25.6 m)

So `m15` without `mmax` is m10, and without `inc1` posterize and solarize weaken as m rises. Differences from timm:
moved images are interpolated linearly, there linearly or by cubics at random, and values are not rounded to 1/255.

Sources: Cubuk, Zoph, Shlens and Le, RandAugment, 2020, arXiv 1909.13719; Wightman, Touvron and Jegou, ResNet strikes
back: An improved training procedure in timm, 2021, arXiv 2110.00476, and timm's code.
"""

import math
import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.views.colour import with_brightness, with_contrast, with_saturation
from lightning_modules.views.rand_augment import (
    each_on_its_rows,
    equalized,
    moved_grid,
    posterized,
    solarized,
    stretched,
    with_sharpness,
)

FULL = 10.0
"""The magnitude of full strength."""
OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
NONE = -1
"""In place of an operation, where it is left out."""
HOST = torch.device("cpu")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
DEFAULTS = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": FULL, "inc": 0.0}


def parts_of(recipe: str) -> dict[str, float]:
    """Read timm's string of RandAugment: magnitude m, operations n, probability p, deviation mstd, bound mmax, inc.

    Raises:
        ValueError: if a part is unknown.
    """
    first, *parts = recipe.split("-")
    found = [re.fullmatch(r"(m|n|p|mstd|mmax|inc)(\d+\.?\d*|inf)", part) for part in parts]
    if first != "rand" or not all(found):
        raise ValueError(f"recipe must be rand-<part>-<part>..., of m, n, p, mstd, mmax and inc, got {recipe!r}")
    return DEFAULTS | {match[1]: float(match[2]) for match in found if match}


def moved_over(image: Tensor, grid: Tensor, fill: float) -> Tensor:
    """Take moved pixels by linear interpolation, and a grey value for what comes from outside.

    Args:
        image: `[B, C, H, W]`.
        grid: `[B, H, W, 2]`, where they come from.
        fill: the grey value.
    """
    x, y = grid[:, None].unbind(dim=4)
    inside = (x >= -1) & (x < 1) & (y >= -1) & (y < 1)
    return torch.where(inside, F.grid_sample(image, grid, padding_mode="border", align_corners=False), fill)


class TimmRandAugment(nn.Module):
    """Applies operations that are drawn for each image, at drawn magnitudes.

    Args:
        recipe: timm's string: `rand`, then m (0...10 or mmax), n, p, mstd (above 100: uniform in [0, m]), mmax and inc,
            in any order.
        fill: grey value of what comes in from outside, in [0, 1].

    Raises:
        ValueError: if the recipe has another part, or an argument is out of range.
    """

    def __init__(self, recipe: str = "rand-m9-mstd0.5-inc1", fill: float = 0.5) -> None:
        super().__init__()
        parts = parts_of(recipe)
        within(0, 1, fill=fill, p=parts["p"])
        self.recipe = recipe
        self.fill = fill
        self.magnitude, self.deviation, self.bound = parts["m"], parts["mstd"], parts["mmax"]
        self.num_ops, self.probability, self.increasing = int(parts["n"]), parts["p"], bool(parts["inc"])

    def forward(self, image: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            shape, device = (len(image),), image.device
            operation = sample_rows(partial(torch.randint, len(OPERATIONS)), shape, HOST)
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
        """Applies to each image its operation.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            operation: `[B]`, int64, on the host: position in `OPERATIONS`, or `NONE`.
            magnitude: `[B]`, 0 to `mmax`.
            sign: `[B]`: 1 or -1, of what goes either way.
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
        factor = (1 + 0.9 * signed).clamp(min=0.1) if self.increasing else 0.1 + 1.8 * level
        bits, threshold, added = (
            (number * magnitude / FULL).floor().to(image.dtype).view(-1, 1, 1, 1) for number in (4, 256, 110)
        )
        bits, threshold = (4 - bits, 256 - threshold) if self.increasing else (bits, threshold)
        added = added.clamp(max=128) / 255

        def move(name: str, image: Tensor, rows: Tensor) -> Tensor:
            step = dict.fromkeys(GEOMETRIC, torch.zeros_like(level[rows])) | {name: amount[name] * signed[rows]}
            shear, shift = (
                torch.stack([step[f"{kind}_{axis}"] for axis in "xy"], dim=1) for kind in ("shear", "translate")
            )
            return moved_over(image, moved_grid(image, shear, shift, step["rotate"]), self.fill)

        functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            **{name: partial(move, name) for name in GEOMETRIC},
            "autocontrast": lambda image, _: stretched(image),
            "equalize": lambda image, _: equalized(image),
            "invert": lambda image, _: 1 - image,
            "posterize": lambda image, rows: posterized(image, bits[rows]),
            "solarize": lambda image, rows: solarized(image, threshold[rows] / 255),
            "solarize_add": lambda image, rows: image.lerp(
                (image + added[rows]).clamp_(max=1), image.detach().clone().lt_(128 / 255)
            ),
            "color": lambda image, rows: with_saturation(image, factor[rows]),
            "contrast": lambda image, rows: with_contrast(image, factor[rows]),
            "brightness": lambda image, rows: with_brightness(image, factor[rows]),
            "sharpness": lambda image, rows: with_sharpness(image, factor[rows]),
        }
        return each_on_its_rows(image, operation, {OPERATIONS.index(name): each for name, each in functions.items()})
