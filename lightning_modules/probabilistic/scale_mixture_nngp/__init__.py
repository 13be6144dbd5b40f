"""Regression and classification with scale mixtures of neural network Gaussian processes (NNGPs).

Consider a network with N(0, 1) weights that are divided by the square roots of the layer widths. As the widths grow,
the network converges to a Gaussian process with kernel K. If the variance of the last layer's weights is random, the
network converges to a scale mixture of Gaussian processes,

    f | s ~ N(0, s K),    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,

which is a t process. The scale of its posterior adapts to the observed targets. For n targets y with noise variance
eps, let K_n = K + eps I. The prediction at a new point is then

    y_* ~ t with 2 a + n degrees of freedom, mean K_*^T K_n^-1 y, squared scale
          (2 b + y^T K_n^-1 y) / (2 a + n) (K_** - K_*^T K_n^-1 K_* + eps).

All points share one scale s, so the scale cannot adapt to single outliers, and the model is not robust to them.

`ScaleMixtureRegression` minimises -log p(y) / n with respect to eps, a, b, and the standard deviations of the network's
weights and biases. Other distributions of s, such as the Burr distribution, are approximated by their quantiles. The
model depends on b and on the variance of the last layer only through their product. The variance of the last layer is
therefore frozen.

`ScaleMixtureClassifier` implements sparse variational classification with a t process (SVTP) or, if the scale is fixed
at 1, with a Gaussian process (SVGP). The classifier has one process per class c, whose values at the inducing inputs
are u_c. The variational posterior is q(u_c | s) = N(mu_c, s diag(S_c)), and q(s) is an inverse gamma distribution. The
classifier minimises

    -E[log softmax(f)_y] + KL(q(u, s) | p(u, s)) / N.

`ScaleMixtureEnsemble` trains finite-width networks and averages their logits. The scale of the last layer is sampled
once for each network. The number of networks was chosen for this project.

This implementation differs from the authors' code in the following points. In regression, the authors' code omits eps
from the predicted variance and from the quadratic form. In the rest of the prediction, the authors' code multiplies eps
by the mean of the diagonal of K. `formulas: released` uses the authors' formulas. The authors' classifier samples
values of a t distribution independently for each class and point, so these values are not samples of a t process. Here,
all classes and points of a sample share one scale. In the authors' code, the inverse of K_ZZ contains eps, but the
determinant of K_ZZ does not. In regression, the standard deviation of the last layer is frozen here, because it is
redundant with b. The authors' code trains it. For the Burr distribution, the scales are mid-quantiles here, and samples
in the authors' code. Rows are split with the seed of the run; the authors' code uses seed 10.

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
