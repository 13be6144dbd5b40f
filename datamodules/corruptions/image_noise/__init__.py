"""Image noise: noisy measurements of clean images, with known statistics.

A noise model is a frozen object that defines the distribution of the noise. It samples noisy images from batches of
clean images on any device. The source of random numbers is passed as an argument. A noisy image is therefore a function
of (seed, epoch, index) and does not depend on the batch or on the rank. A configuration selects a noise model by its
class path:

    noise:
      class_path: datamodules.corruptions.image_noise.Gaussian
      init_args: {grey_levels: 25}
"""

from datamodules.corruptions.image_noise.blind_level import best_level, candidates, looks, total_variation
from datamodules.corruptions.image_noise.gaussian import CorrelatedGaussian, Gaussian
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.corruptions.image_noise.poisson_gaussian import PoissonGaussian
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
    "PoissonGaussian",
    "SeededImageRNG",
    "Sensor",
    "SmoothMask",
    "best_level",
    "candidates",
    "looks",
    "total_variation",
]
