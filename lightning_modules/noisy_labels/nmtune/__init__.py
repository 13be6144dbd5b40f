"""NMTune: tuning on frozen features of a network that was pre-trained on noisy labels.

A residual perceptron reshapes the features F = e(x) of a frozen encoder, and a linear classifier follows:

    Z = s * (W_2 ReLU(BN(W_1 F))) + F,
    L = CE(h(Z), y) + a L_MSE + b L_COV + c L_SVD,
    L_MSE = mean_id (Z_id / |Z_i| - F_id / |F_i|)^2,        keeps the direction of the features;
    L_COV = (1/D) sum_{i != j} Cov(Z)_ij^2,                 decorrelates them;
    L_SVD = -mean(sigma_1 ... sigma_k) / sum_j sigma_j,     keeps their dominant singular values.

Weights and k = 5 are those of the authors' code; the paper has k = 1. Z and F are of the same view of an image, as in
the paper. With a second view in the batch it is the code's step: the other terms are over the rows of both views, and
L_MSE compares Z of the second with F of the first. Covariance and singular values are those of a process's share of the
batch, as the batch statistics are.

Source: Chen et al., Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks, ICLR 2024, arXiv
2309.17002.
"""

from lightning_modules.noisy_labels.nmtune.module import NMTune

__all__ = ["NMTune"]
