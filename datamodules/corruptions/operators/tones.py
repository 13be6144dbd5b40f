"""Nonlinear operators on pixel tones: clipped exposure and quantisation."""

from dataclasses import dataclass

from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.operators.interface import Operator


@dataclass(frozen=True)
class HighDynamicRange(Operator):
    """Overexposure: y = clip(2 x, -1, 1).

    Half of the tonal range of x is lost.

    The first estimate is y / 2.
    """

    def forward(self, image: Tensor) -> Tensor:
        return (2 * image).clamp(-1, 1)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured / 2


@dataclass(frozen=True)
class Quantisation(Operator):
    """Quantisation: y is x, rounded to one of 2^bits levels between -1 and 1.

    The first estimate is y itself.

    Gradients are computed with the straight-through estimator. The true derivative of rounding is 0 almost everywhere,
    so that methods would ignore the measurements, as they do in published code.

    Args:
        bits: number of bits per value. There are 2^bits levels.
    """

    bits: int = 2

    def __post_init__(self) -> None:
        at_least(1, bits=self.bits)

    def forward(self, image: Tensor) -> Tensor:
        steps = 2**self.bits - 1
        rounded = ((image.detach() + 1) / 2 * steps + 0.5).floor() / steps * 2 - 1
        return rounded + (image - image.detach())

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured
