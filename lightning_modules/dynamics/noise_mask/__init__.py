"""Pre-train a classifier on images under noise masks; a small policy network predicts the distributions of the masks.

The policy maps an image x to log-parameters a and b of Beta distributions for the K = g g cells of a mask:

    na = 0.9 base_a + 0.1 a,    nb = 0.9 base_b + 0.1 b,    M ~ Beta(exp na, exp nb) without reparameterisation,
    base <- 0.99 base + 0.01 mean over the batch (a, b).

The mask M is upsampled to the size of the image and blurred. The classifier receives c + M (x - c), where c is the mean
of the data. Let l_j = log Beta(M_j; exp na_j, exp nb_j) be the log-densities of the cells, and let CE be the
cross-entropy. There are two objectives:

    paper_code  L = mean_b (log sum_j exp l_bj) CE, as in the authors' code. CE is the mean over the batch. The
                classifier receives the gradient of CE times mean_b logsumexp_j l_bj, which is about log K. The policy
                receives CE softmax_j(l) grad l_j, which lowers the densities of masks in proportion to the cost CE.
    reinforce   L = CE + mean_b (CE_b - baseline) sum_j l_bj. The factor in parentheses is detached, and the baseline is
                a running mean of CE. This is the estimator of Williams (1992); the classifier is trained with the
                plain cross-entropy.

Without a policy, the cells are uniform, Beta(1, 1), and the objective paper_code is CE log K. The factor of CE in
paper_code is logged as `train/log_density`. For a fair comparison of variants, choose their learning rates so that the
product of the learning rate and this factor is the same for all variants. After `mask_epochs` epochs, the policy is no
longer used. The classifier's weights are then averaged over the last `averaged_epochs` epochs, and the classifier is
tuned on clean images.

This implementation differs from the authors' code in the following points. Each head of the policy is evaluated once
per step, so that the running statistics of its batch normalisation are updated once for each batch. The logarithm of
the sum of densities is computed by logsumexp. Cells are clamped to [1e-6, 1 - 1e-6], because a density may be infinite
at 0 and 1. The base parameters are buffers that are updated with the mean over the global batch. Validation uses clean
images, whereas the authors' validation applies one mask to each batch. Accuracy under new masks is measured on a
shifted test set (`datamodules.classification.image_sets.NoisyImages`). The momentum of the optimizer is kept when
tuning starts. The objective `reinforce` and the training without a policy were added by this project. The paper's
equations were not available.

Source: Yavuz and Yang, Policy Gradient-Driven Noise Mask, 2025, arXiv 2406.14568, and the authors' code.
"""

from lightning_modules.dynamics.noise_mask.module import NoiseMask as NoiseMask
from lightning_modules.dynamics.noise_mask.policy import MaskPolicy as MaskPolicy
from lightning_modules.dynamics.noise_mask.schedule import MaskThenTuning as MaskThenTuning
