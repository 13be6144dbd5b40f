"""NegVSR: real-world video super-resolution.

Training makes the network invariant to noise cut out of other videos. RealBasicVSR cleans a clip x and upsamples the
cleaned clip v, y_pos = F(v). A negative n = R_p((1 - M) v + M noise) mixes the clip v with a noise sequence cut out of
real videos, and then rotates small patches; y_neg = F(n). For a clean clip y and its sharpened version y' (unsharp
masking),

    L = |y_pos - y'| + |v - reduced(y')| + w |y_neg - y_pos|
        [+ perceptual(y_pos, y') + .05 BCE(D(y_pos), real)]      in the second stage, with a discriminator D,

where each term is a mean. The third term has gradients with respect to both outputs if `detach_positive` is False.
Validation, test and prediction use the averaged weights.

The authors published no training code. Loss terms, weights and sampling follow a third-party reimplementation that
contains comments by the authors. The schedule is that of RealBasicVSR. RealBasicVSR's gradient clipping is omitted.
Departures: both losses of the second stage are backpropagated together. The gradients are the same as in two passes. A
patch is rotated with probability p. In the reimplementation it is p + 2^-24, so that p = 0 can rotate a patch. Each
clip of a batch has a separate noise sequence. In the reimplementation, a batch has one clip and one sequence. The
published weights use content-aware upsampling (`upscaling: carafe` of the network, as in configs/negvsr/released.yaml).
The training code and the other configurations use pixel shuffle.

Source: Song, Wang, Yang, Xian and Shi, NegVSR: Augmenting Negatives for Generalized Noise Modeling in Real-World Video
Super-Resolution, AAAI 2024, arXiv 2305.14669.
"""

from lightning_modules.restoration.negvsr.module import NegVSR
from lightning_modules.restoration.negvsr.negatives import Negatives

__all__ = ["NegVSR", "Negatives"]
