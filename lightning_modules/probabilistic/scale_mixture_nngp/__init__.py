"""Regression and classification with scale mixtures of neural network Gaussian processes (NNGPs).

Consider a network with N(0, 1) weights that are divided by the square roots of the widths. As the widths grow, it tends
to a Gaussian process with kernel K. If the weights of the last layer have a random variance, the network tends to a
scale mixture of Gaussian processes,

    f | s ~ N(0, s K),    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,

which is a t process. Its posterior scale adapts to the observed targets: with K_n = K + eps I and n targets y,

    y_* ~ t with 2 a + n degrees of freedom, mean K_*^T K_n^-1 y, squared scale
          (2 b + y^T K_n^-1 y) / (2 a + n) (K_** - K_*^T K_n^-1 K_* + eps).

All points share one scale, so the model is not robust to single outliers.

`ScaleMixtureRegression` minimises -log p(y) / n over the standard deviations of the network and over eps, a and b.
Other distributions of s, such as the Burr distribution, are approximated by their quantiles. Only the product of b and
the variance of the last layer matters. The variance of the last layer is therefore frozen.

`ScaleMixtureClassifier` is sparse variational classification (SVTP; with scale 1 it is SVGP). The classifier has one
process per class, with values u at inducing inputs. The posterior is q(u_c | s) = N(mu_c, s diag(S_c)) with an inverse
gamma q(s). It minimises

    -E[log softmax(f)_y] + KL(q(u, s) | p(u, s)) / N.

`ScaleMixtureEnsemble` trains finite-width networks and averages their logits. The scale of the last layer is sampled
once for each network. The number of members is our choice.

Departures from the code of the authors: their code omits eps from the predicted variance and from the quadratic form.
Elsewhere, it scales eps by the mean of the diagonal of K. `formulas: released` uses their formulas. The classifier of
the authors samples t values independently for each class and point, so their samples are not samples of a t process.
Here each sample has a single scale. In the code of the authors, the inverse of K_ZZ contains eps, and the determinant
of K_ZZ does not. In regression, the standard deviation of the last layer is frozen, because it is redundant with b. The
code of the authors trains it. Scales of the Burr distribution are mid-quantiles instead of samples. Rows are split with
the seed of the run; the code of the authors uses seed 10.

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
