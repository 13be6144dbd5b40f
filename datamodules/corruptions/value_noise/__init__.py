"""Noise on numbers: distributions of additive noise, for values in any unit, and random sign flips of labels.

A distribution is a frozen object with known moments. It samples float64 numbers with the random number generator that
is passed to it. A configuration selects a distribution by its class path:

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
from datamodules.corruptions.value_noise.sign_flips import (
    AdversarialFlips,
    BoundaryFlips,
    ConstantFlips,
    HalfFlips,
)

__all__ = [
    "AdversarialFlips",
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
