"""Adaptive smoothing: mix an accurate and a robust classifier, with a learned weight for each image.

Both classifiers are pretrained and frozen. For each image, a mixing network predicts the weight alpha of the robust
classifier from features of both classifiers (`mixing.py`, `mixture.py`). Let gamma be the logit of alpha and f the
mixture, and let s be 1 for attacked images and 0 for clean images. The mixing network is trained on clean and attacked
images to minimise

    L = c_bce BCE(gamma, s) + c_ce CE(f, y) + c_prod BCE(gamma, s) CE(f, y).

The attacks (`attacks.py`) are white-box attacks: they differentiate through the classifiers and the mixing network.

In certification, only the robust classifier is smoothed: h is the distribution of its votes under noise. The accurate
classifier and alpha are evaluated at the clean input. If h_y >= p and alpha is fixed, the paper gives the certified
radius sigma Phi^-1(alpha p). The proof only needs alpha h_y > 1/2; if this holds for one alpha, it holds for every
larger alpha. With a learned alpha, the radius is therefore valid if it is computed from the smallest possible alpha.

Sources of alpha:

                             set by                                       used
    Mixture.alpha            alpha of `Mixture`, or of                    in evaluation, for all images; None uses the
                             `AdaptiveSmoothing` (`Mixture.choose`)       mixing network's alpha of each image
    Mixture.evaluation       evaluation of `Mixture`                      in evaluation, for the mixing network's alpha
    Mixture.in_training      nothing: the authors' constants              in training and its attacks, independent of
                                                                          Mixture.alpha
    least_alpha              Mixture.alpha; if None, alpha_bias           in the certified radius
    mix(image, alpha)        the callback `AlphaCurve`                    in the table of this callback

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors attack each batch with ten
kinds of attack, and then take five optimiser steps on the same clean and attacked images. Here, each optimiser step
uses new images. Each image is attacked by one kind of attack, or by all ten kinds (`every_attack`).
"""

from lightning_modules.robustness.adaptive_smoothing.attacks import AdaptiveAttack
from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, MixingResNet, Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing

__all__ = ["AdaptiveAttack", "AdaptiveSmoothing", "MixingPerceptron", "MixingResNet", "Mixture"]
