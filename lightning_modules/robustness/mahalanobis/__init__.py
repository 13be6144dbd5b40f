"""Mahalanobis detector of out-of-distribution and adversarial inputs.

It uses the features of a trained classifier. For each layer l, one Gaussian per class models the features f_l. All
classes of a layer share the covariance (`gaussians.py`). The score M_l is

    M_l(x) = max_c -d_c(f_l(x')) / 2,      d_c(f) = (f - mu_c)^T Sigma^+ (f - mu_c),
    x'     = x - epsilon sign(grad_x d_c^(f_l(x)) / 2),      c^ = argmin_c d_c(f_l(x)).

A logistic regression on validation data determines the weights of the layers (`ensemble.py`). The network does not
change. x' is not clipped, and sign(0) is +1. The published code has the factor 1/2 in M_l, and the paper omits it. The
inputs of the network are images in [0, 1], so epsilon is in pixel units. Therefore the gradient is not divided by the
standard deviation of the normalisation, unlike in the published code.

The name of a score tells on which data the regression and epsilon are tuned:

* `tuned_on_target`: the first `num_validation` images of the test set and of the out-of-distribution set. One half of
  these images fits the weights. The other half chooses epsilon by TNR at 95 % TPR. For an attack, a tenth of the images
  is used, and epsilon is chosen by AUROC.
* `tuned_on_attack`: the same test images and their adversarial copies from the first of `attacks`; uses no
  out-of-distribution images.
* `mean`: no tuning. The score is the mean over layers, each standardised by the rank of its covariance, with epsilon 0.
* `last`: no tuning. The score is that of the last layer, with epsilon 0.

The first `num_validation` images of both sets are excluded from the metrics of all scores. The in-distribution inputs
of an adversarial set are clean images and one noisy copy of each. An adversarial set consists of images that are
classified correctly with and without noise, but incorrectly under attack. The code of the authors tunes weights and
epsilon on the first tenth of this set. Here they are tuned on the images of the set that are in the first tenth of the
test set. This tenth is the same for all attacks. The baseline `lid` (`local_dimension.py`) applies to adversarial sets
only. Weights and number of neighbours of `lid` are tuned like weights and epsilon above. The mini-batches of `lid`
follow the order of the set.

`ClassIncremental` adds classes to a classifier with the same Gaussians (`class_incremental.py`).

Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888.
"""

from lightning_modules.robustness.mahalanobis.class_incremental import ClassIncremental
from lightning_modules.robustness.mahalanobis.module import Mahalanobis

__all__ = ["ClassIncremental", "Mahalanobis"]
