"""The Mahalanobis detector: out-of-distribution and adversarial inputs from the features of a trained classifier.

For the features f_l of layer l, one Gaussian for each class with a shared covariance (`gaussians.py`) gives

    M_l(x) = max_c -d_c(f_l(x')) / 2,      d_c(f) = (f - mu_c)^T Sigma^+ (f - mu_c),
    x'     = x - epsilon sign(grad_x d_c^(f_l(x)) / 2),      c^ = argmin_c d_c(f_l(x)),

and a logistic regression on validation data weighs the layers (`ensemble.py`). Neither is the network changed, nor x'
clipped; sign(0) is +1. The paper has M_l without 1/2, and the published code has it, as here. Images are in [0, 1]
outside the network, so epsilon is in pixel units, and the code's division by the deviation of its normalised channels
falls away.

What the regression and epsilon are tuned on is the score's name:

* `tuned_on_target`: the first `num_validation` images of the test set and as many of the out-of-distribution set, half
  of them for the weights, half to choose epsilon by TNR at 95 % TPR. For an attack: a tenth of the images, by AUROC.
* `tuned_on_attack`: the same test images and their adversarial copies by the first of `attacks`; nothing of the
  out-of-distribution set.
* `mean`: nothing. The mean of the layers, each standardised by the rank of its covariance, with epsilon 0.
* `last`: nothing. The last layer, with epsilon 0.

The first `num_validation` images of either kind are left out of all metrics, whatever the score. An adversarial set has
clean images and noisy copies as its in-distribution inputs, as many of each, and holds the images that are classified
rightly, noisy or not, and wrongly under attack. The code takes the first tenth of those, and here it is those among the
first tenth of the test images, which are the same for all attacks. The baseline `lid` (`local_dimension.py`) is of
adversarial sets alone. Its weights and number of neighbours are tuned as weights and epsilon are, and its mini-batches
are of images in the set, in their order.

Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888.
"""

from lightning_modules.robustness.mahalanobis.module import Mahalanobis

__all__ = ["Mahalanobis"]
