"""Train a network whose weights gradually become N:M sparse (MDGF, SDGF).

In an N:M sparse layer, at most N of every M consecutive weights are nonzero. If a network is sparse from the first step
on, the straight-through estimator passes full gradients to pruned weights, and the accuracy drops at high sparsity. The
methods here compute a mask m from the trained weights W in every forward pass, and impose the mask gradually. In MDGF,
pruned weights are multiplied by a factor D(t) that decays to 0, where t is the number of optimizer steps:

    W~ = (m + D(t) (1 - m)) W,   D(t) = max(1 - beta t, 0)  or  exp(-eta t)                               (MDGF)

In SDGF, m is binary, and its pattern becomes sparser in successive frames of equal length:

    (M-1):M, M/2:M, M/4:M, ..., N:M   (stepwise)    or    8N:8M, 4N:4M, 2N:2M, N:M   (geometric)          (SDGF)

The authors' code also contains a schedule that starts with sparser patterns, N:8M, N:4M, N:2M, N:M (densifying). It
also contains masks that keep the largest weights of a whole layer (`along: unstructured`).

Let g be the gradient with respect to W~. The optimizer receives either g (`ste`) or the gradient of the forward pass,
(m + D (1 - m)) g (`masked`). The abstract of the paper mentions restricted gradients, but the authors' code passes g.
Both variants are available. The baselines are networks that are sparse from the start, W~ = m W. The optimizer then
receives g (`ste`) or g + 2e-4 (1 - m) W (SR-STE, `sr_ste`).

`train/second_moment` is Adam's running mean of squared gradients, averaged over all weights of the sparse layers.
`train/gigaflops` is the cost of a training step for one sample, assuming that weights equal to 0 cost nothing. A pruned
weight that has not yet decayed to 0 counts as a full weight. `train/gigaflops_so_far` is the sum of `train/gigaflops`
over the epochs so far, which is the training cost for each sample of the training set. Validation, test and prediction
use the network as it is exported, with a binary mask and the N:M pattern.

This implementation differs from the authors' code in the following points:

* biases are kept;
* q, k and v have separate patterns, without further changes to the layer;
* the pattern is computed from the epoch, so that a resumed run continues with its pattern, whereas the authors' code
  sets the pattern only in the first epoch of a frame;
* the final phase with a binary mask has the configured number of epochs, whereas it is one epoch shorter in the
  authors' code;
* before the first frame, the network is dense, whereas it has the pattern of the last frame in the authors' code;
* validation uses a binary mask, whereas the authors validate with the current D;
* of several weights with the same magnitude, the first ones are kept;
* layers are replaced by layers with the same parameters, because a PyTorch parametrisation would rename the parameters.

Source: Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci and Krishna, Progressive Gradient Flow for Robust N:M
Sparsity Training in Transformers, CPAL 2025, arXiv 2402.04744.
"""

from lightning_modules.efficiency.nm_sparsity.kernels import in_semi_structured_kernels
from lightning_modules.efficiency.nm_sparsity.module import NMSparsity

__all__ = ["NMSparsity", "in_semi_structured_kernels"]
