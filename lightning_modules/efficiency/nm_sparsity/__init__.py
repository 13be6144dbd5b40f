"""Train a network whose weights become N:M sparse step by step (MDGF, SDGF).

At most N of every M consecutive weights of a layer are to be left. Sparse from the first step on, training by the
straight-through estimator lets full gradients of pruned weights in, and at high sparsity loses accuracy. So a mask m,
found anew from the trained weights W in every forward pass, closes by and by:

    W~ = (m + D(t) (1 - m)) W,   D(t) = max(1 - beta t, 0)  or  exp(-eta t)                               (MDGF)

in steps t of the optimizer, or is binary, with patterns that tighten in frames of equal length:

    (M-1):M, M/2:M, M/4:M, ..., N:M   (stepwise)    or    8N:8M, 4N:4M, 2N:2M, N:M   (geometric)          (SDGF)

With the gradient g of W~ the optimizer gets g (`ste`), or the forward pass' own (m + D (1 - m)) g (`masked`). The
abstract speaks of restricted gradients, the authors' code hands on g: both are here. Compared with are the sparse
network from the start, W~ = m W with g (`ste`), and with g + 2e-4 (1 - m) W (SR-STE, `sr_ste`).

`train/second_moment` is Adam's mean squared gradient over all weights of the sparse layers, `train/gigaflops` what a
sample's training step costs where only kept weights do. A decayed weight costs as much as a whole one. Validation,
tests and predictions are of the network that would be exported now: its mask is binary and its pattern N:M.

Differences from the authors' code:

* biases stay, q, k and v have patterns of their own that change nothing else, and N:M comes from the epoch alone, so
  that an interrupted run continues with the pattern that it had; there it is set in a frame's first epoch only;
* the binary phase has the number of epochs that is asked for, there one less;
* before its first frame a network is dense, there it has the last pattern;
* the authors validate with D as it is;
* of equal weights the first are kept, and layers take the place of others of the same parameters, where a
  parametrisation would rename them.

Source: Bambhaniya, Yazdanbakhsh, Subramanian, Kao, Agrawal, Evci and Krishna, Progressive Gradient Flow for Robust N:M
Sparsity Training in Transformers, CPAL 2025, arXiv 2402.04744.
"""

from lightning_modules.efficiency.nm_sparsity.kernels import in_semi_structured_kernels
from lightning_modules.efficiency.nm_sparsity.module import NMSparsity

__all__ = ["NMSparsity", "in_semi_structured_kernels"]
