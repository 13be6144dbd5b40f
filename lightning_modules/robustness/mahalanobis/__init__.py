"""Mahalanobis detector of out-of-distribution and adversarial inputs.

The detector uses the features of a trained classifier. For each layer l, the features f_l of each class are modelled by
a Gaussian. All classes share one covariance per layer (`gaussians.py`). The score M_l of a layer is

    M_l(x) = max_c -d_c(f_l(x')) / 2,      d_c(f) = (f - mu_c)^T Sigma^+ (f - mu_c),
    x'     = x - epsilon sign(grad_x d_{c^}(f_l(x)) / 2),      c^ = argmin_c d_c(f_l(x)).

A logistic regression, fitted on validation data, determines the weight of each layer (`ensemble.py`). The network is
not changed. x' is not clipped, and sign(0) is +1. The published code has the factor 1/2 in M_l; the paper omits this
factor. The inputs of the network are images in [0, 1], so that epsilon is in pixel units. For this reason, the gradient
is not divided by the standard deviation of the input normalisation, unlike in the published code.

The name of a score states on which data the logistic regression and epsilon are tuned:

* `tuned_on_target`: on the first `num_validation` images of the test set and of the out-of-distribution set. The
  weights are fitted on one half of these images, and epsilon is chosen by TNR at 95 % TPR on the other half. For
  adversarial inputs, a tenth of the test images is used instead, and epsilon is chosen by AUROC.
* `tuned_on_attack`: on the same test images and on adversarial copies of them, computed by the first attack in
  `attacks`. No out-of-distribution images are used.
* `mean`: no tuning. With epsilon 0, the score of each layer is standardised by the rank of its covariance, and the
  scores are averaged over layers.
* `last`: no tuning. The score is that of the last layer, with epsilon 0.

The metrics of all scores exclude the first `num_validation` images of both sets. An adversarial set consists of the
images that are classified correctly with and without noise, but incorrectly under attack. Its in-distribution inputs
are the clean versions of these images, and one noisy copy of each. The authors' code tunes the weights and epsilon on
the first tenth of the adversarial set. Here, the weights and epsilon are tuned on those images of the adversarial set
that are in the first tenth of the test set. This tenth is the same for all attacks. The baseline `lid`
(`local_dimension.py`) applies only to adversarial sets. The weights and the number of neighbours of `lid` are tuned
like the weights and epsilon above. The mini-batches of `lid` follow the order of the adversarial set.

`ClassIncremental` uses the same Gaussians to add classes to a trained classifier (`class_incremental.py`).

Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888.
"""

from lightning_modules.robustness.mahalanobis.class_incremental import ClassIncremental
from lightning_modules.robustness.mahalanobis.module import Mahalanobis

__all__ = ["ClassIncremental", "Mahalanobis"]
