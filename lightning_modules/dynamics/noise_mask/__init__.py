"""Pre-train a classifier on images under noise masks that a small policy network samples for each image.

A policy maps an image x to log-parameters a, b of Beta distributions for the K = g g cells of a mask,

    na = 0.9 base_a + 0.1 a,    nb = 0.9 base_b + 0.1 b,    M ~ Beta(exp na, exp nb) without reparameterisation,
    base <- 0.99 base + 0.01 mean over the batch (a, b).

The mask M is upsampled to the image and blurred. The classifier f takes c + M (x - c), where c is the mean of the data.
With the log-densities l_j = log Beta(M_j; exp na_j, exp nb_j), the objectives are

    paper_code  L = mean_b (log sum_j exp l_bj) CE, as in the authors' code. CE is one number for the whole batch. The
                classifier gets the gradient of cross-entropy times mean_b logsumexp_j l_bj, about log K. The policy
                gets CE softmax_j(l) grad l_j: this lowers the densities of masks in proportion to their cost reinforce
                L = CE + mean_b (CE_b - baseline) sum_j l_bj. The first factor is detached, and the baseline is a
                running mean of the cost. This is the estimator of Williams (1992), with unchanged cross-entropy for the
                classifier

Without a policy, cells are uniform, Beta(1, 1), and paper_code is CE log K. To compare variants, choose learning rates
with an equal product of the learning rate and the factor of CE. This factor is logged as `train/log_density`. After
`mask_epochs` epochs the policy is no longer used, the classifier's weights are averaged over the last `averaged_epochs`
epochs, and the classifier is tuned on clean images.

Departures from the authors' code: each head of the policy is evaluated once per step. Its batch normalisation therefore
counts each batch once. The sum of densities is a logsumexp, and cells are clamped 1e-6 away from 0 and 1, where a
density may be infinite. Base parameters are buffers, updated from the global batch. Validation uses clean images,
whereas the authors' validation applies one mask to each batch. Accuracy under fresh masks is measured on a shifted test
set (`datamodules.classification.image_sets.NoisyImages`). The momentum is kept from pre-training to tuning. The
reinforce objective and training without a policy are additions of this project. The paper's own equations were not
available.

Source: Yavuz and Yang, Policy Gradient-Driven Noise Mask, 2025, arXiv 2406.14568, and the authors' code.
"""

from lightning_modules.dynamics.noise_mask.module import NoiseMask as NoiseMask
from lightning_modules.dynamics.noise_mask.policy import MaskPolicy as MaskPolicy
from lightning_modules.dynamics.noise_mask.schedule import MaskThenTuning as MaskThenTuning
