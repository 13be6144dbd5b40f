"""NegVSR: real-world video super-resolution.

Training makes the network invariant to noise that was cut out of other videos. RealBasicVSR cleans a clip x and
upsamples the cleaned clip v: y_pos = F(v). A negative (a clip with added real noise) is n = R_p((1 - M) v + M noise): v
is mixed with a noise sequence that was cut out of real videos, and then small patches of the mixture are rotated. The
network also upsamples the negative: y_neg = F(n). With a clean clip y and its sharpened version y' (unsharp masking),
the loss is

    L = |y_pos - y'| + |v - reduced(y')| + w |y_neg - y_pos|
        [+ perceptual(y_pos, y') + .05 BCE(D(y_pos), real)]      in the second stage, with a discriminator D,

where each term is a mean over elements. If `detach_positive` is False, the third term has gradients with respect to
both y_neg and y_pos. Validation, test and prediction use the averaged weights.

The authors published no training code. Loss terms, loss weights and sampling follow a third-party reimplementation that
contains comments by the authors. The training schedule is that of RealBasicVSR, without its gradient clipping.
Departures: in the second stage, the losses of the generator and the discriminator are backpropagated together, which
gives the same gradients as two passes. A patch is rotated with probability p; in the reimplementation, the probability
is p + 2^-24, so a patch can be rotated even if p = 0. Each clip of a batch has its own noise sequence; in the
reimplementation, a batch has one clip and one noise sequence. The published weights use content-aware upsampling (the
network's `upscaling: carafe`, as in configs/negvsr/released.yaml). The third-party training code uses pixel shuffle,
and so do the other configurations here.

Source: Song, Wang, Yang, Xian and Shi, NegVSR: Augmenting Negatives for Generalized Noise Modeling in Real-World Video
Super-Resolution, AAAI 2024, arXiv 2305.14669.
"""

from lightning_modules.restoration.negvsr.module import NegVSR
from lightning_modules.restoration.negvsr.negatives import Negatives

__all__ = ["NegVSR", "Negatives"]
