"""Fit an unnormalised density by maximum likelihood, with a moving average of its normalising constant (MECO).

The model is p(x) = exp f(x) / Z, where f is a network with one output. Z is estimated with samples z from a noise
distribution q, whose density is known:

    F = -E_data f(x) + log Z,      Z = E_q exp(f(z) - log q(z)),
    grad F = -E_data grad f(x) + E_q [exp(f(z) - log q(z)) grad f(z)] / Z.

The plug-in method replaces Z by the mean of exp(f(z) - log q(z)) over the batch. The gradient of this method is biased,
because the expectation of a ratio is not the ratio of the expectations. MECO divides instead by a moving average u of
g_t, where g_t is the mean of exp(f(z) - log q(z)) over the batch on all ranks. The average u is computed in the log
domain:

    u_t = (1 - beta) u_{t-1} + beta g_t,    u_1 = g_1,
    G_t = -mean grad f(x) + mean_j exp(f(z_j) - log q(z_j) - log u_t) grad f(z_j).

The log importance weights f(z) - log q(z) - log u are clipped at 20. If q does not cover the model, the variance of the
weights grows exponentially, and the moving average does not help. For example, training diverges if f = theta x - x^2 /
2, q is standard normal, and the mean of the data is 3 or larger (`narrow_noise.yaml`).

The error depends on the variance of the weights exp(f(z) - log q(z)). The test logs this variance, divided by Z^2, as
`weight_variance`.

The reported likelihoods never use u. Instead, log Z is computed on a grid or with new samples from q. The
out-of-distribution score of an input is -f.

Only the abstract of the paper was available. The networks, the learning rates and beta were therefore chosen for this
project. The paper may use a variance-reduced moving average, which is not included here.

Source: Jiang, Qin, Wu, Chen, Yang and Zhang, Learning Unnormalized Statistical Models via Compositional Optimization,
ICML 2023, arXiv 2306.07485. Noise-contrastive estimation: Gutmann and Hyvarinen, AISTATS 2010.
"""

from lightning_modules.probabilistic.meco.module import MECO

__all__ = ["MECO"]
