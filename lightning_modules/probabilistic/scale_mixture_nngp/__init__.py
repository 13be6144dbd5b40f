"""Regression and classification by infinitely wide networks with a random scale (scale mixtures of NNGPs).

A network whose weights are N(0, 1), divided by the roots of the widths, tends to a Gaussian process with kernel K as
the widths grow. If the variance of its last layer's weights is random, it tends to a mixture of them over the scale,

    f | s ~ N(0, s K),    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,

a t process, whose posterior scale follows what was observed: with K_n = K + eps I and n targets y,

    y_* ~ t with 2 a + n degrees of freedom, mean K_*^T K_n^-1 y, squared scale
          (2 b + y^T K_n^-1 y) / (2 a + n) (K_** - K_*^T K_n^-1 K_* + eps).

One scale is shared by all points: that is no robustness to single outliers.

`ScaleMixtureRegression` lowers -log p(y) / n over the network's standard deviations, eps, a and b. Another law of s, as
Burr's, is summed over quantiles of it. Of b and the last layer's variance only the product counts, so the latter is
fixed.

`ScaleMixtureClassifier` is sparse variational classification (SVTP, and with the scale 1 SVGP): a process a class,
known by its values u at inducing inputs, with q(u_c | s) = N(mu_c, s diag(S_c)) and q(s) inverse gamma, lowers

    -E[log softmax(f)_y] + KL(q(u, s) | p(u, s)) / N.

`ScaleMixtureEnsemble` trains networks of finite width, each with a scale of its last layer drawn once, and averages
their logits; the number of members is ours.

Departures from the authors' code: its predictions leave eps out of the variance and of the quadratic form, and multiply
it by the mean of K's diagonal elsewhere (`formulas: released`). Its classifier draws a t number of its own for each
class and point, which is no t process: here a draw has one scale. Its determinant of K_ZZ lacks the eps that its
inverse has. In regression the last layer's deviation is fixed, as it says the same as b, where theirs is trained;
Burr's scales are mid-quantiles in place of draws; rows are split by the run's seed, theirs by 10.

The paper's tables were not at hand.

Source: Lee, Yun, Yang and Lee, Scale Mixtures of Neural Network Gaussian Processes, ICLR 2022, arXiv 2107.01408.
"""

from lightning_modules.probabilistic.scale_mixture_nngp.architectures import (
    ConvolutionalNetwork,
    ConvolutionalResidualNetwork,
    DenseNetwork,
    NetworkKernel,
    ResidualNetwork,
)
from lightning_modules.probabilistic.scale_mixture_nngp.classification import ScaleMixtureClassifier
from lightning_modules.probabilistic.scale_mixture_nngp.ensemble import ScaleMixtureEnsemble
from lightning_modules.probabilistic.scale_mixture_nngp.finite import FiniteNetworks
from lightning_modules.probabilistic.scale_mixture_nngp.module import ScaleMixtureRegression
from lightning_modules.probabilistic.scale_mixture_nngp.scales import Burr, FixedScale, InverseGamma

__all__ = [
    "Burr",
    "ConvolutionalNetwork",
    "ConvolutionalResidualNetwork",
    "DenseNetwork",
    "FiniteNetworks",
    "FixedScale",
    "InverseGamma",
    "NetworkKernel",
    "ResidualNetwork",
    "ScaleMixtureClassifier",
    "ScaleMixtureEnsemble",
    "ScaleMixtureRegression",
]
