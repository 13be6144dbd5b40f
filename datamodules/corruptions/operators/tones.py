"""Operators on the tones of a pixel: an exposure that clips, and few grey levels. They are not linear."""

from dataclasses import dataclass

from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.operators.interface import Operator


@dataclass(frozen=True)
class HighDynamicRange(Operator):
    """y = clip(2 x, -1, 1): half of the range of tones is lost. Its first estimate is y / 2."""

    def forward(self, image: Tensor) -> Tensor:
        return (2 * image).clamp(-1, 1)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured / 2


@dataclass(frozen=True)
class Quantisation(Operator):
    """y is x rounded to 2^bits levels between -1 and 1; its first estimate is y itself.

    The derivative is that of x, as the rounding's own is nought almost everywhere, and with it a method would not see
    the data: published code has that.

    Args:
        bits: of a level.
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
