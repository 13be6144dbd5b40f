"""Winner-take-all column-row sampling (WTA-CRS): fine-tuning with a fraction of the activations that exact training
stores.

In a linear layer Z = H W^T, only the gradient of the weight needs the input H. This gradient is a sum over M tokens;
each term is the product of the gradient and the input of a token. WTA-CRS keeps k << M of these tokens: the set C of
the c most probable tokens, and k - c tokens sampled from the others,

    dL/dW = sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,    p_i ~ ||h_i|| z_i,   P_C = sum_C p_i

Here c minimises (1 - P_C) / (k - c) over 0 <= c < k. The estimate is unbiased, and its variance is below that of plain
column-row sampling if P_C > c / k. Outputs, and gradients of inputs and biases, are exact. z_i is the norm of the
gradient g_i of the token in the previous epoch. It is stored for each layer and training sample, in bfloat16 on the
CPU; only the rows of a batch are moved to the device. Products of attention can be sampled in the same way; gradients
of earlier layers are then estimates as well. With `compact`, dropout and ReLU store one bit per value, and layer
normalisation stores its output, as in the published memory measurements.

The table shows the memory kept for the backward pass of T5-base with 128 tokens, relative to exact training (autograd's
tensors without parameters; LoRA relative to LoRA):

| products | 30 % | 10 % |
| --- | --- | --- |
| linear layers of attention's output and of the feed-forward part | 0.87 | 0.84 |
| with both products of attention | 0.72 | 0.65 |
| with `compact`, too | 0.26 | 0.19 |
| LoRA with both products of attention and `compact` | 0.25 | 0.19 |

The paper reports memory peaks of 8.44 and 7.30 GB, compared with 17.66 GB. All of these peaks include 3.4 GB of
weights, gradients and AdamW's state. Without these 3.4 GB, the ratios are 0.35 and 0.27. For LoRA, the peaks are 6.50
and 5.44 GB against 13.84 GB; without the weights of 0.85 GB, the ratios are 0.43 and 0.35. Temporary tensors of a step,
such as gathered gradient rows and full gradients of attention weights, add to a peak, but are not saved for the
backward pass. Fused attention stores no weights. If exact training uses it, sampling the products of attention saves no
memory. The norms of a sample take 9 kB for the linear layers of T5-base, and 214 kB with the products of attention.

Each rank samples from its own shard of the batch, as in the authors' code. The kept tokens depend on the world size,
but the estimate is always unbiased. With `shares` W, fewer than W ranks sample as W ranks would.

Differences from the authors' code; in the cases below, the sums of that code are biased:

* sampled tokens always have their weight; the code omits 1 / ((k - c) p_j) while no gradient norms are known, which is
  the whole first epoch; it samples without replacement and without weights if c = 0 (`mix_replacement`); and it drops
  the remainder if 1 - P_C < 0.001;
* c = k, for which the code divides by 0, is excluded;
* z is the norm for the sample's own loss: it does not depend on the batch size, the number of ranks, accumulation or
  the loss scale of half precision. A sample without a known norm gets the mean of the known norms; the code uses 0
  unless all samples are new;
* half precision follows the trainer; the code uses float16.

Source: Liu, Wang, Zhong, Xu, Zha, Tang, Jiang, Zhou, Chaudhary, Xu and Hu, Winner-Take-All Column Row Sampling for
Memory Efficient Adaptation of Language Model, NeurIPS 2023, arXiv 2305.15265.
"""

from lightning_modules.efficiency.wta_crs.module import WTACRS

__all__ = ["WTACRS"]
