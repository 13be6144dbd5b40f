"""NegVSR: real-world video super-resolution, trained to be invariant to noise that is cut out of other videos.

RealBasicVSR cleans a clip x to v and upsamples it, y_pos = F(v). A negative n = R_p((1 - M) v + M noise) is the clip v
mixed with a noise sequence cut out of real videos, with small patches rotated; y_neg = F(n). For a clean clip y and its
sharpened version y' (unsharp masking),

    L = |y_pos - y'| + |v - reduced(y')| + w |y_neg - y_pos|
        [+ perceptual(y_pos, y') + .05 BCE(D(y_pos), real)]      in the second stage, with a discriminator D,

where each term is a mean. The third term has gradients with respect to both outputs, unless `detach_positive` is set.
Validation, test and prediction use the averaged weights.

The authors published no training code. Loss terms, weights and sampling follow a third-party reimplementation that
contains comments by the authors; the schedule is RealBasicVSR's. RealBasicVSR's gradient clipping is omitted.
Departures: both losses of the second stage are backpropagated together, with the same gradients as separately. A patch
is rotated with probability p instead of p + 2^-24, which makes p = 0 rotate none. Each clip of a batch has its own
noise sequence; batches of the reimplementation have one clip and one sequence. The published weights use content-aware
upsampling; the training code and this module use pixel shuffle.

Source: Song, Wang, Yang, Xian and Shi, NegVSR: Augmenting Negatives for Generalized Noise Modeling in Real-World Video
Super-Resolution, AAAI 2024, arXiv 2305.14669.
"""

from lightning_modules.restoration.negvsr.module import NegVSR
from lightning_modules.restoration.negvsr.negatives import Negatives

__all__ = ["NegVSR", "Negatives"]
