"""Train a network with progressive N:M sparsity of its weights (MDGF, SDGF).

At most N of every M consecutive weights of a layer may be nonzero. If a network is sparse from the first step on, the
straight-through estimator passes full gradients to pruned weights, and accuracy drops at high sparsity. The mask m is
computed from the trained weights W in every forward pass. It is imposed gradually:

    W~ = (m + D(t) (1 - m)) W,   D(t) = max(1 - beta t, 0)  or  exp(-eta t)                               (MDGF)

Here t counts optimizer steps. Alternatively, m is binary, and its pattern tightens in frames of equal length:

    (M-1):M, M/2:M, M/4:M, ..., N:M   (stepwise)    or    8N:8M, 4N:4M, 2N:2M, N:M   (geometric)          (SDGF)

The authors' code also has a schedule of sparser patterns, N:8M, N:4M, N:2M, N:M (densifying), and masks of the largest
weights of a whole layer (`along: unstructured`).

If g is the gradient of W~, the optimizer gets g (`ste`) or the gradient of the forward pass, (m + D (1 - m)) g
(`masked`). The abstract of the paper mentions restricted gradients, but the authors' code passes g. Both variants are
available. Baselines are networks that are sparse from the start, W~ = m W. Baselines use the gradient g (`ste`) or g +
2e-4 (1 - m) W (SR-STE, `sr_ste`).

`train/second_moment` is Adam's running mean of squared gradients, averaged over all weights of the sparse layers.
`train/gigaflops` is the cost of the training step for one sample if pruned weights cost nothing. In this cost, a
decayed weight counts as a full weight. `train/gigaflops_so_far` is its sum over the epochs so far: the cost of training
for each sample of the training set. Validation, testing and prediction use the exported form of the network, with a
binary mask and the N:M pattern.

Differences from the authors' code:

* biases are kept, q, k and v have separate patterns without other changes, and N:M depends only on the epoch, so
  that an interrupted run resumes with its pattern; in their code it is set only in a frame's first epoch;
* the binary phase has the configured number of epochs, whereas their code has one less;
* before its first frame a network is dense, whereas in their code it has the last pattern;
* the authors validate with the current D;
* of equal weights the first are kept, and layers are replaced by others with the same parameters, since a
  parametrisation would rename them.

Source: Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci and Krishna, Progressive Gradient Flow for Robust N:M
Sparsity Training in Transformers, CPAL 2025, arXiv 2402.04744.
"""

from lightning_modules.efficiency.nm_sparsity.kernels import in_semi_structured_kernels
from lightning_modules.efficiency.nm_sparsity.module import NMSparsity

__all__ = ["NMSparsity", "in_semi_structured_kernels"]
