"""Noise of numbers: laws that are added to values of any unit, and flips of signs.

A law is a frozen object that draws float64 numbers from the generator it is handed, and knows their moments. A config
names one by its class path:

    noise:
      class_path: datamodules.corruptions.value_noise.Laplace
      init_args: {std: 0.5}
"""

from datamodules.corruptions.value_noise.additive import (
    Exponential,
    GaussianValues,
    GrossOutliers,
    Gumbel,
    Laplace,
    StudentT,
)
from datamodules.corruptions.value_noise.interface import SignFlips, ValueNoise
from datamodules.corruptions.value_noise.sign_flips import BoundaryFlips, ConstantFlips, HalfFlips

__all__ = [
    "BoundaryFlips",
    "ConstantFlips",
    "Exponential",
    "GaussianValues",
    "GrossOutliers",
    "Gumbel",
    "HalfFlips",
    "Laplace",
    "SignFlips",
    "StudentT",
    "ValueNoise",
]
