"""Mask noise: wrong segmentation masks, with known statistics.

A kind of noise maps true masks to given ones. It is a pure function of its seed, of the masks, and of the position of
each in its set: a mask comes out the same whichever others go with it, on every process and machine. A config names a
kind by its class path:

    mask_noise:
      class_path: datamodules.corruptions.mask_noise.ErosionDilation
      init_args: {min_pixels: 2, max_pixels: 3}
"""

from datamodules.corruptions.mask_noise.affine import Affine
from datamodules.corruptions.mask_noise.interface import (
    MaskNoise,
    MaskNoiseStatistics,
    mask_noise_statistics,
)
from datamodules.corruptions.mask_noise.morphology import ErosionDilation, OverUnderSegmentation

__all__ = [
    "Affine",
    "ErosionDilation",
    "MaskNoise",
    "MaskNoiseStatistics",
    "OverUnderSegmentation",
    "mask_noise_statistics",
]
