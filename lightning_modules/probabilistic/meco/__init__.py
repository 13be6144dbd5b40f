"""Fit a density without its normalising constant by likelihood, with a moving average in place of the constant (MECO).

The model is p(x) = exp f(x) / Z with a network f of one output, and a noise law q that can be drawn from and scored:

    F = -E_data f(x) + log Z,      Z = E_q exp(f(z) - log q(z)),
    grad F = -E_data grad f(x) + E_q [exp(f(z) - log q(z)) grad f(z)] / Z.

A batch's own mean in place of Z (the plug-in) gives a biased gradient, as a ratio of means is not the mean of ratios.
MECO keeps an average of the batches' means g_t, in logarithms and over all processes, and divides by it:

    u_t = (1 - beta) u_{t-1} + beta g_t,    u_1 = g_1,
    G_t = -mean grad f(x) + mean_j exp(f(z_j) - log q(z_j) - log u_t) grad f(z_j).

Logarithms of weights are cut at 20. Where q misses what the model covers the weights' variance is exponential and no
average helps: with f = theta x - x^2 / 2, q standard normal and data at 3 or beyond it diverges (`narrow_noise.yaml`).

Likelihoods are never reported by u: log Z is that of a grid or of fresh draws from q. A score for other inputs is -f.

The paper's text beyond its abstract was not at hand: networks, rates and beta are ours. A variance-reduced average,
which the paper may have, is left out.

Source: Jiang, Qin, Wu, Chen, Yang and Zhang, Learning Unnormalized Statistical Models via Compositional Optimization,
ICML 2023, arXiv 2306.07485. Noise-contrastive estimation: Gutmann and Hyvarinen, AISTATS 2010.
"""

from lightning_modules.probabilistic.meco.module import MECO

__all__ = ["MECO"]
