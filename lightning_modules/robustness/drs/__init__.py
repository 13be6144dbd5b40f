"""Dual randomised smoothing (DRS): smooth the two halves of an image separately.

A checkerboard pattern splits the pixels of an image into two halves x_l and x_r, each with half the dimension. Each
half has a separate classifier, which receives only the noisy pixels of this half. The vote probabilities of the two
classifiers are added:

    p_c^l = P(f_l(x_l + sigma e) = c),   p_c^r = P(f_r(x_r + sigma e) = c),   g(x) = argmax_c (p_c^l + p_c^r).

Let p^l and p^r be lower bounds of p_c^l and p_c^r for the class c that g predicts. Then g is constant within the radius
R:

    R = sigma / sqrt(2) (Phi^-1(p^l) + Phi^-1(p^r)).

R can be up to sqrt(2) times as large as the radius that a single vote gives. Each classifier is trained like a base
classifier of randomised smoothing: with Gaussian noise, or with consistency regularisation.

The authors' code reports larger radii than this theorem guarantees. `radius.py` also contains their formulas.

Source: Xia, Yu, Jiang and Ding, Mitigating the Curse of Dimensionality for Certified Robustness via Dual Randomized
Smoothing, ICLR 2024, arXiv 2404.09586.
"""

from lightning_modules.robustness.drs.module import DRS

__all__ = ["DRS"]
