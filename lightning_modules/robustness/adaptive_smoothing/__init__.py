"""Adaptive smoothing: mix an accurate and a robust classifier, with a learned weight for each image.

Both classifiers are pretrained and frozen. For each image, a mixing network predicts the weight alpha of the robust
classifier from features of both classifiers (`mixing.py`, `mixture.py`). Let gamma be the logit of alpha, f the
mixture, and s = 1 for attacked and 0 for clean images. The mixing network minimises, over clean and attacked images,

    L = c_bce BCE(gamma, s) + c_ce CE(f, y) + c_prod BCE(gamma, s) CE(f, y).

The attacks (`attacks.py`) are white-box attacks: they differentiate through the classifiers and the mixing network.

Certification smooths only the robust classifier. Then h is the vote distribution of this classifier under noise, while
g and alpha are computed from the clean input. For a fixed alpha, the paper gives the radius sigma Phi^-1(alpha p) if
h_y >= p. The proof uses only alpha h_y > 1/2. The radius therefore also holds for a learned alpha if it is computed
from the smallest possible alpha.

Sources of alpha:

                             set by                                       used
    Mixture.alpha            alpha of `Mixture`, or of the module below   in evaluation, for all images; None uses the
                             through `Mixture.choose`                     mixing network's alpha of each image
    Mixture.evaluation       gamma_scale ... alpha_bias of `Mixture`      in evaluation, for the mixing network's alpha
    (an `AlphaRange`)
    Mixture.in_training      training_gamma_scale, _bias of `Mixture`     in training and its attacks, independent of
    (an `AlphaRange`)                                                     Mixture.alpha
    least_alpha              Mixture.alpha; if None, alpha_bias           in the certified radius
    mix(image, alpha)        the callback `AlphaCurve`                    in its table

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors attack each batch in ten
ways, and then take five optimiser steps on the clean and the attacked images. Here each step uses new images, with one
attack per image, or with all ten (`every_attack`).
"""

from lightning_modules.robustness.adaptive_smoothing.attacks import AdaptiveAttack
from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, MixingResNet, Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing

__all__ = ["AdaptiveAttack", "AdaptiveSmoothing", "MixingPerceptron", "MixingResNet", "Mixture"]
