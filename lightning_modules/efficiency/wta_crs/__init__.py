"""Winner-take-all column-row sampling (WTA-CRS) fine-tunes with few of the activations that exact training keeps.

In a linear layer Z = H W^T the gradient of the weight, a sum over M pairs of a token's gradient and its input, is all
that needs the input H. WTA-CRS keeps k << M tokens of it: those c that are most probable, C, and k - c drawn from the
others,

    dL/dW = sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,    p_i ~ ||h_i|| z_i,   P_C = sum_C p_i

with c the argument of min_{0 <= c < k} (1 - P_C) / (k - c). It is unbiased, and its variance is below that of plain
column-row sampling wherever P_C > c / k. Outputs, gradients of inputs and of biases are exact. z_i is the norm of the
token's gradient g_i at its sample's last epoch, one epoch before, kept for each layer and training sample in bfloat16
on the host; only the rows of a batch come to the device. Products of attention can be sampled in the same way; then
gradients of what is below are estimates, too. With `compact`, dropout and ReLU keep bits, and layer normalisation its
output, as in the published measurements of memory.

Saved for the backward pass of T5-base, 128 tokens, over what exact training saves (tensors of autograd, parameters
left out; LoRA over LoRA):

| products | 30 % | 10 % |
| --- | --- | --- |
| linear layers of attention's output and of the feed-forward part | 0.87 | 0.84 |
| with both products of attention | 0.72 | 0.65 |
| with `compact`, too | 0.26 | 0.19 |
| LoRA with both products of attention and `compact` | 0.25 | 0.19 |

The paper's peaks of 8.44 and 7.30 GB against 17.66 GB also hold weights, gradients and AdamW's state, 3.4 GB: without
them they are 0.35 and 0.27, and for LoRA, 6.50 and 5.44 GB against 13.84 GB with weights of 0.85 GB, 0.43 and 0.35.
What comes and goes within a step, as gathered rows of gradients and whole gradients of attention's weights, is in a
peak and in no saved tensor. Where exact training has fused attention, which keeps no weights, sampling the products of
attention gains nothing.
The norms of a sample take 9 kB for the linear layers of T5-base, and 214 kB with the products of attention.

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
* half precision is the trainer's, where the code takes float16.

Source: Liu, Wang, Zhong, Xu, Zha, Tang, Jiang, Zhou, Chaudhary, Xu and Hu, Winner-Take-All Column Row Sampling for
Memory Efficient Adaptation of Language Model, NeurIPS 2023, arXiv 2305.15265.
"""

from lightning_modules.efficiency.wta_crs.module import WTACRS

__all__ = ["WTACRS"]
