"""Adaptive smoothing: an accurate and a robust classifier, mixed with a weight that is learned for each image.

Both classifiers are given and stay as they are. A mixing network reads their features and gives each image the weight
alpha of the robust one (`mixing.py`, `mixture.py`). With gamma the value that alpha is the sigmoid of, s = 1 for
attacked images and 0 for clean ones, and f the mixture, it minimises over clean images and attacks on them

    L = c_bce BCE(gamma, s) + c_ce CE(f, y) + c_prod BCE(gamma, s) CE(f, y).

The attacks (`attacks.py`) see classifiers and mixing network as one, as an attacker would.

Certified is a mixture whose robust classifier is smoothed: h are its votes under noise, g and alpha are those of the
image itself. The paper's radius for a fixed alpha, sigma Phi^-1(alpha p) if h_y >= p, also holds with the least alpha
that an image can have where it is learned: all that it uses is alpha h_y > 1/2.

Where alpha comes from:

                             set by                                       used
    Mixture.alpha            alpha of `Mixture`, or of the module below   in evaluation, for all images; None asks the
                             through `Mixture.choose`                     mixing network for each image's
    Mixture.evaluation       gamma_scale ... alpha_bias of `Mixture`      in evaluation, for the mixing network's
    (an `AlphaRange`)
    Mixture.in_training      training_gamma_scale, _bias of `Mixture`     in training and the attacks there, whatever
    (an `AlphaRange`)                                                     Mixture.alpha is
    least_alpha              Mixture.alpha; for None alpha_bias           in the certified radius
    mix(image, alpha)        the callback `AlphaCurve`                    in its table

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors attack a batch in ten ways,
and take five optimiser steps on the clean and attacked images; here each step has new images, half of them attacked.
"""

from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, MixingResNet, Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing

__all__ = ["AdaptiveSmoothing", "MixingPerceptron", "MixingResNet", "Mixture"]
