"""NMTune: tune a classifier on the frozen features of a network that was pre-trained with noisy labels.

A residual MLP transforms the features F = e(x) of a frozen encoder e to Z, and a linear classifier h is applied to Z:

    Z = s * (W_2 ReLU(BN(W_1 F))) + F,
    L = CE(h(Z), y) + a L_MSE + b L_COV + c L_SVD,
    L_MSE = mean_id (Z_id / |Z_i| - F_id / |F_i|)^2,        preserves the direction of the features;
    L_COV = (1/D) sum_{i != j} Cov(Z)_ij^2,                 decorrelates the features;
    L_SVD = -mean(sigma_1 ... sigma_k) / sum_j sigma_j,     increases the share of the dominant singular values.

The loss weights and k = 5 follow the authors' code; the paper uses k = 1. As in the paper, Z and F are computed from
the same augmented view of an image. If the batch contains a second view, the training step follows the authors' code
instead: L_MSE compares Z of the second view with F of the first view, and the other terms use the rows of both views.
Each rank computes the covariance, the singular values and the statistics of batch normalisation from its own part of
the batch only.

Source: Chen et al., Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks, ICLR 2024, arXiv
2309.17002.
"""

from lightning_modules.noisy_labels.nmtune.module import NMTune

__all__ = ["NMTune"]
