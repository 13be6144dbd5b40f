"""Forward operators of inverse problems: y = H(x), from which x is to be reconstructed.

An operator is an immutable object. It maps a batch of images x to measurements y = H(x), on the device of the images.
Every operator has a pseudo-inverse H^+. A linear operator also has a transpose. Images are in [-1, 1], as in diffusion
models, so unknown pixels (value 0) are grey. Random parts, such as masks, are a function of (seed, image index). They
do not depend on the batch or on the rank. A configuration selects an operator by its class path:

    operator:
      class_path: datamodules.corruptions.operators.AverageDownsampling
      init_args: {factor: 4}

Most operators are those of Kawar, Elad, Ermon and Song, Denoising Diffusion Restoration Models, NeurIPS 2022, arXiv
2201.11793, and Chung, Kim, Mccann, Klasky and Ye, Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR
2023, arXiv 2209.14687. Papers often compare methods on these operators. `Blur` differs from the blur in the published
code, as its docstring explains.
"""

from datamodules.corruptions.operators.grayscale import Grayscale
from datamodules.corruptions.operators.inpainting import FreeForm, Inpainting, MaskFolder, RandomPixels
from datamodules.corruptions.operators.interface import LinearOperator, Operator
from datamodules.corruptions.operators.nonlinear_blur import NonlinearBlur
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
    "NonlinearBlur",
    "Operator",
    "PhaseRetrieval",
    "Quantisation",
    "RandomPixels",
]
