"""Degradations of video clips by chains of operators.

The parameters of each operator follow a random walk over the frames of a clip.

    degradation:
      class_path: datamodules.corruptions.clip_degradation.Chain
      init_args:
        scale: 4
        operators:
          - datamodules.corruptions.clip_degradation.RandomBlur
          - datamodules.corruptions.clip_degradation.ResizeToEnd

Source: K. C. K. Chan et al., Investigating Tradeoffs in Real-World Video Super-Resolution (RealBasicVSR), CVPR 2022,
arXiv 2111.12704; the defaults are those of the first stage of the chain in its code (mmagic).
"""

from datamodules.corruptions.clip_degradation.blur import RandomBlur
from datamodules.corruptions.clip_degradation.chain import Chain, InRandomOrder
from datamodules.corruptions.clip_degradation.compression import RandomCodec, RandomJpeg
from datamodules.corruptions.clip_degradation.noise import RandomNoise
from datamodules.corruptions.clip_degradation.resizing import RandomResize, ResizeToEnd
from datamodules.corruptions.clip_degradation.sharpening import UnsharpMask

__all__ = [
    "Chain",
    "InRandomOrder",
    "RandomBlur",
    "RandomCodec",
    "RandomJpeg",
    "RandomNoise",
    "RandomResize",
    "ResizeToEnd",
    "UnsharpMask",
]
