"""Dual randomised smoothing: two half-images are smoothed by themselves, in half as many dimensions.

The pixels of an image are split in two parts x_l and x_r, the colours of a checkerboard. Each has a classifier of its
own, which sees its part under noise and nothing of the other one; the votes add up:

    p_c^l = P(f_l(x_l + sigma e) = c),   p_c^r = P(f_r(x_r + sigma e) = c),   g(x) = argmax_c (p_c^l + p_c^r).

If both give g's class at least p^l and p^r, then g is constant within

    R = sigma / sqrt(2) (Phi^-1(p^l) + Phi^-1(p^r)),

up to sqrt(2) times the radius of a single vote. Each half is trained like any classifier for smoothing: with Gaussian
noise, or with consistency regularisation.

The authors' code reports larger radii than this theorem, without its guarantee: `radius.py` has its formulas.

Source: Xia, Yu, Jiang and Ding, Mitigating the Curse of Dimensionality for Certified Robustness via Dual Randomized
Smoothing, ICLR 2024, arXiv 2404.09586.
"""

from lightning_modules.robustness.drs.module import DRS

__all__ = ["DRS"]
