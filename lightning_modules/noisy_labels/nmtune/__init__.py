"""NMTune: tuning on the frozen features of a network that was pre-trained with noisy labels.

A residual MLP transforms the features F = e(x) of a frozen encoder. A linear classifier h follows:

    Z = s * (W_2 ReLU(BN(W_1 F))) + F,
    L = CE(h(Z), y) + a L_MSE + b L_COV + c L_SVD,
    L_MSE = mean_id (Z_id / |Z_i| - F_id / |F_i|)^2,        preserves the direction of the features;
    L_COV = (1/D) sum_{i != j} Cov(Z)_ij^2,                 decorrelates them;
    L_SVD = -mean(sigma_1 ... sigma_k) / sum_j sigma_j,     increases the share of the dominant singular values.

The weights and k = 5 follow the code of the authors; the paper has k = 1. As in the paper, Z and F come from the same
augmentation of an image. If the batch has a second augmentation, the step follows the code. L_MSE then compares Z of
the second augmentation with F of the first. The other terms use the rows of both augmentations. Covariance and singular
values are computed on the part of the batch on each rank, like the statistics of batch normalisation.

Source: Chen et al., Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks, ICLR 2024, arXiv
2309.17002.
"""

from lightning_modules.noisy_labels.nmtune.module import NMTune

__all__ = ["NMTune"]
