"""Random ellipses, as a shape model of structures such as optic discs or fetal heads."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.arguments import ascending, at_least, within
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.mask_sets import AuxiliaryMasks


def ellipse_masks(
    uniform: Tensor, size: int, semi_axis: Sequence[float], ratio: Sequence[float], centre: float = 0.5
) -> Tensor:
    """Render filled ellipses as masks.

    Args:
        uniform: uniform numbers in [0, 1), `[B, 5]`. They determine the row and column of the centre, the semi-major
            axis, the axis ratio and the angle.
        size: height and width of the masks, S, in pixels.
        semi_axis: smallest and largest semi-major axis, relative to S.
        ratio: smallest and largest ratio of minor to major axis, in (0, 1].
        centre: height and width of the central region in which the ellipse's centre lies, as a fraction of S.

    Returns:
        Masks `[B, S, S]`, uint8. A mask is 1 for pixels whose centre is inside the ellipse, and otherwise 0.
    """
    row, column, long, round_, angle = uniform.to(torch.float32)[:, :, None, None].unbind(dim=1)
    pixels = (torch.arange(size, device=uniform.device) + 0.5) / size
    down = pixels[:, None] - (0.5 + centre * (row - 0.5))
    across = pixels[None, :] - (0.5 + centre * (column - 0.5))
    cosine, sine = torch.cos(math.pi * angle), torch.sin(math.pi * angle)
    a = semi_axis[0] + (semi_axis[1] - semi_axis[0]) * long
    b = a * (ratio[0] + (ratio[1] - ratio[0]) * round_)
    along, aside = (cosine * across + sine * down) / a, (cosine * down - sine * across) / b
    return (along.square() + aside.square() <= 1).to(torch.uint8)


class Ellipses(AuxiliaryMasks):
    """Auxiliary masks that are sampled from an elliptical shape model and do not belong to any image.

    Centre, angle, semi-axis and axis ratio are uniformly distributed. The centre is in a central region of the image.
    `centre` sets the size of this region. Choose ranges of semi-axis and axis ratio that match the structure to be
    segmented.

    Args:
        number: number of masks. Masks are generated on access, so they take no memory.
        semi_axis: smallest and largest semi-major axis, relative to the image size.
        ratio: smallest and largest ratio of minor to major axis.
        centre: height and width of the central region in which the ellipse's centre lies, as a fraction of the image
            size.
    """

    def __init__(
        self,
        number: int = 400,
        semi_axis: tuple[float, float] = (0.2, 0.35),
        ratio: tuple[float, float] = (0.6, 1.0),
        centre: float = 0.5,
    ) -> None:
        at_least(1, number=number)
        ascending(0, 1, "(]", semi_axis=semi_axis, ratio=ratio)
        within(0, 1, centre=centre)
        self.number = number
        self.semi_axis = tuple(semi_axis)
        self.ratio = tuple(ratio)
        self.centre = centre

    def __len__(self) -> int:
        return self.number

    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        uniform = sample_uniform(seed, 0, index, count=5, stream=2)
        return ellipse_masks(uniform, size, self.semi_axis, self.ratio, self.centre)
