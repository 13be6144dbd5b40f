"""Regression and classification with scale mixtures of neural network Gaussian processes (NNGPs).

A network whose weights are N(0, 1), divided by the roots of the widths, tends to a Gaussian process with kernel K as
the widths grow. If the variance of its last layer's weights is random, the network tends to a scale mixture of Gaussian
processes,

    f | s ~ N(0, s K),    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,

a t process, whose posterior scale adapts to the observed targets: with K_n = K + eps I and n targets y,

    y_* ~ t with 2 a + n degrees of freedom, mean K_*^T K_n^-1 y, squared scale
          (2 b + y^T K_n^-1 y) / (2 a + n) (K_** - K_*^T K_n^-1 K_* + eps).

All points share one scale, so the model is not robust to single outliers.

`ScaleMixtureRegression` minimises -log p(y) / n over the network's standard deviations, eps, a and b. Other
distributions of s, such as Burr's, are approximated by their quantiles. Only the product of b and the last layer's
variance matters, and therefore the last layer's variance is frozen.

`ScaleMixtureClassifier` is sparse variational classification (SVTP; with scale 1 it is SVGP). The classifier has one
process per class, with values u at inducing inputs, q(u_c | s) = N(mu_c, s diag(S_c)) and an inverse gamma q(s). It
minimises

    -E[log softmax(f)_y] + KL(q(u, s) | p(u, s)) / N.

`ScaleMixtureEnsemble` trains finite-width networks and averages their logits. Each network's last-layer scale is
sampled once; the number of members is our choice.

Departures from the authors' code: that code omits eps from the predicted variance and from the quadratic form, and
scales eps elsewhere by the mean of K's diagonal (available as `formulas: released`). The authors' classifier samples t
values independently for each class and point, which is not a t process; here each sample has a single scale. In the
authors' code, the determinant of K_ZZ lacks the eps that the inverse has. In regression, the last layer's standard
deviation is frozen, because it is redundant with b; the authors' code trains it. Burr's scales are mid-quantiles
instead of samples. Rows are split with the run's seed; the authors' code uses seed 10.

The paper's tables were not available.

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
from lightning_modules.probabilistic.scale_mixture_nngp.ensemble import FiniteNetworks, ScaleMixtureEnsemble
from lightning_modules.probabilistic.scale_mixture_nngp.module import ScaleMixtureRegression
from lightning_modules.probabilistic.scale_mixture_nngp.posterior import Burr, FixedScale, InverseGamma

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
