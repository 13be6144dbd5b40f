"""Fine-tune while storing only a fraction of the activations, by winner-take-all column-row sampling (WTA-CRS).

In the backward pass of a linear layer Z = H W^T, only the gradient of the weight W needs the input H. This gradient is
a sum over M tokens; the term of token i is the product of its output gradient g_i and its input h_i. WTA-CRS keeps k <<
M of these tokens: the set C of the c tokens with the largest probabilities p_i, and k - c tokens j that are sampled
from the others:

    dL/dW = sum_{i in C} g_i h_i^T + sum_j (1 - P_C) / ((k - c) p_j) g_j h_j^T,    p_i ~ ||h_i|| z_i,   P_C = sum_C p_i

Here c minimises (1 - P_C) / (k - c) over 0 <= c < k. The estimate is unbiased, and its variance is lower than that of
plain column-row sampling if P_C > c / k. Outputs are exact, and so are the gradients of inputs and biases. z_i is the
norm of the token's gradient g_i in the previous epoch. These norms are stored for each layer and training sample, in
bfloat16 on the CPU; in each step, only the norms of the batch are moved to the device. The matrix products of attention
can be sampled in the same way, but the gradients of earlier layers are then estimates as well. With `compact`, dropout
and ReLU store one bit per value, and layer normalisation stores its output instead of its input, as in the published
memory measurements.

The table shows how much memory T5-base with 128 tokens needs for tensors that autograd saves for the backward pass,
without parameters. Values are relative to exact training; those for LoRA are relative to exact training with LoRA. The
columns are two values of `ratio`.

| sampled products | 30 % | 10 % |
| --- | --- | --- |
| linear layers of attention's output and of the feed-forward part | 0.87 | 0.84 |
| the same linear layers and both products of attention | 0.72 | 0.65 |
| the same linear layers and both products of attention, with `compact` | 0.26 | 0.19 |
| the same with LoRA | 0.25 | 0.19 |

For the same two ratios, the paper reports memory peaks of 8.44 and 7.30 GB, compared with 17.66 GB for exact training.
All of these peaks include 3.4 GB for weights, gradients and AdamW's state. Without these 3.4 GB, the relative peaks are
0.35 and 0.27. For LoRA, the peaks are 6.50 and 5.44 GB, compared with 13.84 GB for exact training. Without the 0.85 GB
for weights, the relative peaks are 0.43 and 0.35. Temporary tensors of a step, such as gathered gradient rows and full
gradients of attention weights, increase the peak, but are not saved for the backward pass. Fused attention does not
store attention weights. Compared with exact training with fused attention, sampling the products of attention therefore
saves no memory. The gradient norms of one sample take 9 kB for the linear layers of T5-base, and 214 kB if the products
of attention are also sampled.

Each rank samples tokens from its own shard of the batch, as in the authors' code. The choice of tokens therefore
depends on the world size, but the estimate is always unbiased. If `shares` is W, a run on fewer than W ranks samples in
the same way as a run on W ranks.

This implementation differs from the authors' code in the following points. The first point describes three cases in
which the gradients in the authors' code are biased.

* Sampled tokens are always weighted as in the equation. The authors' code omits the factor 1 / ((k - c) p_j) while no
  gradient norms are known, that is, in the whole first epoch. If c = 0 (`mix_replacement`), the authors' code samples
  without replacement and without weights. If 1 - P_C < 0.001, the authors' code omits the sampled tokens.
* c = k is excluded; in this case, the authors' code divides by 0.
* z is the norm of the gradient of the sample's own loss, so z does not depend on the batch size, the number of ranks,
  gradient accumulation or the loss scale of half precision. For samples without known norms, the mean of the known
  norms is used, whereas the authors' code uses 0 unless all samples are new.
* Half precision follows the trainer's precision, whereas the authors' code uses float16.

Source: Liu, Wang, Zhong, Xu, Zha, Tang, Jiang, Zhou, Chaudhary, Xu and Hu, Winner-Take-All Column Row Sampling for
Memory Efficient Adaptation of Language Model, NeurIPS 2023, arXiv 2305.15265.
"""

from lightning_modules.efficiency.wta_crs.module import WTACRS

__all__ = ["WTACRS"]
