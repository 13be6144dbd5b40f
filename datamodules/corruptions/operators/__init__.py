"""Operators: what is measured of an image, of which the image is to be found again.

An operator is a frozen object that maps images x, batched and on their device, to measurements y = H(x), and gives
their pseudo-inverse H^+; a linear one also has its transpose. Images are in [-1, 1] here, as diffusion models know
them, so that what is not known is grey. Random parts, as masks are, follow from (seed, index of the image) and are the
same in whatever batch, on whatever process. A config names an operator by its class path:

    operator:
      class_path: datamodules.corruptions.operators.AverageDownsampling
      init_args: {factor: 4}

Most are those of Kawar, Elad, Ermon and Song, Denoising Diffusion Restoration Models, NeurIPS 2022, arXiv 2201.11793,
and Chung, Kim, Mccann, Klasky and Ye, Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR 2023,
arXiv 2209.14687, as methods are compared on them. The blur differs from published code, see `Blur`.
"""

from datamodules.corruptions.operators.grayscale import Grayscale
from datamodules.corruptions.operators.inpainting import FreeForm, Inpainting, MaskFolder, RandomPixels
from datamodules.corruptions.operators.interface import LinearOperator, Operator
from datamodules.corruptions.operators.phase_retrieval import PhaseRetrieval
from datamodules.corruptions.operators.separable import AverageDownsampling, Bicubic, Blur
from datamodules.corruptions.operators.tones import HighDynamicRange, Quantisation

__all__ = [
    "AverageDownsampling",
    "Bicubic",
    "Blur",
    "FreeForm",
    "Grayscale",
    "HighDynamicRange",
    "Inpainting",
    "LinearOperator",
    "MaskFolder",
    "Operator",
    "PhaseRetrieval",
    "Quantisation",
    "RandomPixels",
]
