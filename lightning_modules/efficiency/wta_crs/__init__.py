"""Fine-tune with a fraction of the stored activations by winner-take-all column-row sampling (WTA-CRS).

In a linear layer Z = H W^T, only the gradient of the weight needs the input H. This gradient is a sum over M tokens,
and each term is the product of a token's gradient g_i and input h_i. WTA-CRS keeps k << M of these tokens: the set C of
the c most probable tokens, and k - c tokens that are sampled from the others:

    dL/dW = sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,    p_i ~ ||h_i|| z_i,   P_C = sum_C p_i

Here c minimises (1 - P_C) / (k - c) over 0 <= c < k. The estimate is unbiased, and its variance is lower than that of
plain column-row sampling if P_C > c / k. Outputs, and gradients of inputs and biases, are exact. z_i is the norm of the
token's gradient g_i in the previous epoch. These norms are stored for each layer and training sample, in bfloat16 on
the CPU, and only the rows of a batch are moved to the device. The matrix products of attention can be sampled in the
same way, but the gradients of earlier layers are then estimates as well. With `compact`, dropout and ReLU store one bit
per value, and layer normalisation stores its output, as in the published memory measurements.

The table shows the memory that T5-base with 128 tokens stores for the backward pass, relative to exact training
(tensors saved by autograd, without parameters; LoRA is relative to LoRA):

| products | 30 % | 10 % |
| --- | --- | --- |
| linear layers of attention's output and of the feed-forward part | 0.87 | 0.84 |
| with both products of attention | 0.72 | 0.65 |
| with `compact`, too | 0.26 | 0.19 |
| LoRA with both products of attention and `compact` | 0.25 | 0.19 |

The paper reports memory peaks of 8.44 and 7.30 GB, compared with 17.66 GB for exact training. All of these peaks
include 3.4 GB of weights, gradients and AdamW's state. Without these 3.4 GB, the ratios are 0.35 and 0.27. For LoRA,
the peaks are 6.50 and 5.44 GB, compared with 13.84 GB. Without the weights of 0.85 GB, the ratios are 0.43 and 0.35.
Temporary tensors of a step, such as gathered gradient rows and full gradients of attention weights, increase a peak,
but are not saved for the backward pass. Fused attention does not store attention weights. If exact training uses fused
attention, sampling the products of attention saves no memory. The norms of one sample take 9 kB for the linear layers
of T5-base, and 214 kB with the products of attention.

Each rank samples tokens from its own shard of the batch, as in the authors' code. Which tokens are kept therefore
depends on the world size, but the estimate is always unbiased. With `shares` W, fewer than W ranks sample in the same
way as W ranks.

This implementation differs from the authors' code in the following points. In the cases of the first item, the
gradients of the authors' code are biased:

* Sampled tokens always have their weights. The authors' code omits the factor 1 / ((k - c) p_j) while no gradient norms
  are known, that is, in the whole first epoch. If c = 0 (`mix_replacement`), it samples without replacement and without
  weights. If 1 - P_C < 0.001, it omits the sampled tokens.
* c = k, for which the authors' code divides by 0, is excluded.
* z is the gradient norm for the sample's own loss. It does not depend on the batch size, the number of ranks, gradient
  accumulation or the loss scale of half precision. For samples whose norms are not known, the mean of the known norms
  is used, whereas the authors' code uses 0 unless all samples are new.
* Half precision follows the trainer's precision, whereas the authors' code uses float16.

Source: Liu, Wang, Zhong, Xu, Zha, Tang, Jiang, Zhou, Chaudhary, Xu and Hu, Winner-Take-All Column Row Sampling for
Memory Efficient Adaptation of Language Model, NeurIPS 2023, arXiv 2305.15265.
"""

from lightning_modules.efficiency.wta_crs.module import WTACRS

__all__ = ["WTACRS"]
