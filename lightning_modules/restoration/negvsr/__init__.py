"""NegVSR: enlarge real videos by a network that is taught to give for a clip in foreign noise what it gives without it.

RealBasicVSR cleans a clip x and enlarges the cleaned one, y_pos = F(v). A negative n = R_p((1 - M) v + M noise) mixes
in a sequence of noise that was cut out of real videos, and turns small patches; y_neg = F(n). For a sharp clip y and
its unsharp mask y',

    L = |y_pos - y'| + |v - reduced(y')| + w |y_neg - y_pos|
        [+ perceptual(y_pos, y') + .05 BCE(D(y_pos), real)]      in the second stage, with a discriminator D,

all of them means; the third term moves both results, unless `detach_positive` is set. All but training uses the
average of the weights.

The authors published no training. The terms, weights and draws here are those of a project that trains NegVSR anew,
with the authors' comments in its code, and the schedule is RealBasicVSR's; its own clipping of gradients is left out.
Departures: both losses of the second stage are backpropagated at once, which gives the same gradients as one after the
other; a patch is turned with probability p and not p + 2^-24, so that p = 0 turns none; each clip of a batch has its
own sequence of noise, where theirs has one for a batch of one clip; the published weights have content-aware
upsampling, the training code and this have pixel shuffle.

Source: Song, Wang, Yang, Xian and Shi, NegVSR: Augmenting Negatives for Generalized Noise Modeling in Real-World Video
Super-Resolution, AAAI 2024, arXiv 2305.14669.
"""

from lightning_modules.restoration.negvsr.module import NegVSR
from lightning_modules.restoration.negvsr.negatives import Negatives

__all__ = ["NegVSR", "Negatives"]
