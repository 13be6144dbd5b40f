"""Winner-take-all column-row sampling (WTA-CRS) fine-tunes with few of the activations that exact training keeps.

In a linear layer Z = H W^T the gradient of the weight, a sum over M pairs of a token's gradient and its input, is all
that needs the input H. WTA-CRS keeps k << M tokens of it: those c that are most probable, C, and k - c drawn from the
others,

    dL/dW = sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,    p_i ~ ||h_i|| z_i,   P_C = sum_C p_i

with c the argument of min_{0 <= c < k} (1 - P_C) / (k - c). It is unbiased, and its variance is below that of plain
column-row sampling wherever P_C > c / k. Outputs, gradients of inputs and of biases are exact. z_i is the norm of the
token's gradient g_i at its sample's last visit, one epoch before, kept for each layer and training sample in bfloat16
on the host; only the rows of a batch come to the device. Products of attention can be sampled in the same way; then
gradients of what is below are estimates, too. With `compact`, dropout and ReLU keep bits, and layer normalisation its
output, as in the published measurements of memory.

Several processes sample each from its own share of the batch, as in the authors' code: the kept tokens depend on their
number, and are unbiased for any. With `shares` W, fewer processes sample what W would.

Differences from the authors' code, whose sums are biased where it says so:

* drawn tokens always have their weight; the code leaves 1 / ((k - c) p_j) out while nothing is known of gradients, in
  the whole first epoch, draws without replacement and without weights where c = 0 (`mix_replacement`), and drops what
  is left where 1 - P_C < 0.001;
* c = k, for which the code divides by 0, is none of the choices;
* z is of the sample's own loss: it does not change with the batch's size, the number of processes, accumulation and the
  scale of half precision. A sample that was not seen yet has the mean of the others, where the code takes 0 unless all
  are new;
* tensors are in the precision of training, where the code casts to float16.

Source: Liu, Wang, Zhong, Xu, Zha, Tang, Jiang, Zhou, Chaudhary, Xu and Hu, Winner-Take-All Column Row Sampling for
Memory Efficient Adaptation of Language Model, NeurIPS 2023, arXiv 2305.15265.
"""

from lightning_modules.efficiency.wta_crs.module import WTACRS

__all__ = ["WTACRS"]
