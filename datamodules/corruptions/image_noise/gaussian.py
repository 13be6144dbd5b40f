"""Gaussian noise of one strength in all pixels."""

from dataclasses import dataclass

from torch import Tensor

from datamodules.arguments import within
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.corruptions.image_noise.numbers import Numbers


@dataclass(frozen=True)
class Gaussian(ImageNoise):
    """Additive white Gaussian noise: y = x + n, n ~ N(0, sigma^2), independent in every pixel and channel.

    Args:
        grey_levels: standard deviation in grey levels, of which white has 255, as the field's tables give it; in
            [0, 255].

    Raises:
        ValueError: if an argument is out of range.
    """

    grey_levels: float = 25.0

    def __post_init__(self) -> None:
        within(0, 255, grey_levels=self.grey_levels)

    @property
    def sigma(self) -> float:
        """Standard deviation in the units of images in [0, 1]."""
        return self.grey_levels / 255

    def sample(self, clean: Tensor, numbers: Numbers) -> Tensor:
        return clean + self.sigma * numbers.normal(clean)
