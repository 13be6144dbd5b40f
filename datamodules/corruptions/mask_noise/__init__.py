"""Mask noise: wrong segmentation masks, with known statistics.

A mask noise model maps true masks to given (noisy) masks. A given mask is a function of the seed, the true mask and the
mask's position in the dataset. It does not depend on the other masks of the batch, the rank or the machine. A
configuration selects a noise model by its class path:

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
