"""Image noise: noisy measurements of clean images, with known statistics.

A kind of noise is a frozen object. This object defines the distribution of the noise, and samples noisy images from
batches of clean images on any device. Random numbers are passed to it as an argument. A noisy image is therefore a
function of (seed, epoch, index) and does not depend on the batch or on the rank. A configuration selects a kind of
noise by its class path:

    noise:
      class_path: datamodules.corruptions.image_noise.Gaussian
      init_args: {grey_levels: 25}
"""

from datamodules.corruptions.image_noise.blind_level import best_level, candidates, looks, total_variation
from datamodules.corruptions.image_noise.gaussian import CorrelatedGaussian, Gaussian
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.corruptions.image_noise.sensor import Sensor
from datamodules.corruptions.image_noise.signal_dependent import Gamma, Impulse, Poisson
from datamodules.corruptions.image_noise.smooth_mask import SmoothMask
from datamodules.randomness.counter import RNG, CounterRNG, SeededImageRNG

__all__ = [
    "RNG",
    "CorrelatedGaussian",
    "CounterRNG",
    "Gamma",
    "Gaussian",
    "ImageNoise",
    "Impulse",
    "Poisson",
    "SeededImageRNG",
    "Sensor",
    "SmoothMask",
    "best_level",
    "candidates",
    "looks",
    "total_variation",
]
