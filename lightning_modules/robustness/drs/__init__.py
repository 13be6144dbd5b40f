"""Dual randomised smoothing (DRS) smooths two halves of an image separately.

Each half has half the dimensions. The pixels of an image are split into two parts x_l and x_r by a checkerboard
pattern. Each part has a separate classifier. The classifier receives only this part, with noise. The vote probabilities
of both are added:

    p_c^l = P(f_l(x_l + sigma e) = c),   p_c^r = P(f_r(x_r + sigma e) = c),   g(x) = argmax_c (p_c^l + p_c^r).

Let p^l and p^r be lower bounds of the probabilities of the class that g predicts. Then g is constant within the radius
R:

    R = sigma / sqrt(2) (Phi^-1(p^l) + Phi^-1(p^r)).

R can exceed the radius of a single vote by a factor of up to sqrt(2). Each classifier is trained as usual for
smoothing, with Gaussian noise or with consistency regularisation.

The code of the authors reports larger radii than this theorem guarantees. `radius.py` also has these formulas.

Source: Xia, Yu, Jiang and Ding, Mitigating the Curse of Dimensionality for Certified Robustness via Dual Randomized
Smoothing, ICLR 2024, arXiv 2404.09586.
"""

from lightning_modules.robustness.drs.module import DRS

__all__ = ["DRS"]
