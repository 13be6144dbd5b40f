"""Fit an unnormalised density by maximum likelihood, with a moving average of its normalising constant (MECO).

The model is p(x) = exp f(x) / Z with a network f of one output. Samples come from a noise distribution q with known
density:

    F = -E_data f(x) + log Z,      Z = E_q exp(f(z) - log q(z)),
    grad F = -E_data grad f(x) + E_q [exp(f(z) - log q(z)) grad f(z)] / Z.

The plug-in method replaces Z by the mean over the batch. Its gradient is biased, since a ratio of means is not the mean
of ratios. MECO keeps a moving average u of the means g_t of the batches over all ranks. It computes u in logarithms,
and divides by u:

    u_t = (1 - beta) u_{t-1} + beta g_t,    u_1 = g_1,
    G_t = -mean grad f(x) + mean_j exp(f(z_j) - log q(z_j) - log u_t) grad f(z_j).

The logarithms of importance weights are clipped at 20. If q does not cover the model, the variance of the weights grows
exponentially, and averaging does not help. For example, training diverges with f = theta x - x^2 / 2, standard normal q
and data at 3 or beyond (`narrow_noise.yaml`).

The error depends on the variance of the weights exp(f(z) - log q(z)). The test reports this variance, relative to Z^2,
as `weight_variance`.

Reported likelihoods never use u. Instead, log Z is computed on a grid or with new samples from q. The score that
detects unusual inputs is -f.

Only the abstract of the paper was available, so networks, learning rates and beta are our choice. A variance-reduced
average is not included; the paper may have one.

Source: Jiang, Qin, Wu, Chen, Yang and Zhang, Learning Unnormalized Statistical Models via Compositional Optimization,
ICML 2023, arXiv 2306.07485. Noise-contrastive estimation: Gutmann and Hyvarinen, AISTATS 2010.
"""

from lightning_modules.probabilistic.meco.module import MECO

__all__ = ["MECO"]
