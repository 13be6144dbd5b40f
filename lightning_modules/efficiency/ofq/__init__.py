"""Train vision transformers at low bit-width, without weights that oscillate between two levels (OFQ).

In quantisation-aware training, a trained weight near a rounding threshold oscillates between two levels. OFQ attributes
oscillation to a learned scale, and to query and key weights that influence each other. OFQ makes three changes. The
first change uses b bits, n = 2^(b - 1) and rows W_i of a weight:

    Q(W)_ij = s_i (round(t_ij) + 1/2) / n,    t = clip(W / s, -1, 1) n - 1/2,    s_i = 2 mean_j |W_ij|          (StatsQ)

The gradient of Q(W) is passed to W, also for clipped entries.

    logits_h = x^ LSQ(x^ Q(W_q,h^T W_k,h)^T)^T / sqrt(d)                                                         (QKR)

For each head h, the product of query and key weights, without biases, is quantised as one weight. The third change is
confidence-guided annealing (CGA): in the final epochs only weights with |t - threshold| <= BR train, and all other
weights keep their exact values. Activations, and weights of the first layer and the heads, have learned scales (LSQ)
with learned shifts before and after: s round(clip((x + beta) / s, Q_n, Q_p)) + beta'. The teacher is a full-precision
network:

    loss = cross-entropy(logits, label) + cross-entropy(logits of the distillation head, softmax(teacher)).

With `weight_quantizer: lsq`, the weights of the blocks have learned scales as well, as in the paper's baselines.

`train/oscillating` is the fraction of the blocks' weights whose integer reverses direction in more than 1 of 200 steps
(a running average of momentum 0.01). Without QKR, `train/oscillating_query_key` is this fraction of query and key
weights, and `train/oscillating_others` that of all other weights. `train/annealed` is the fraction of weights that
train during CGA. The table `latent_weights` shows how weights are distributed between thresholds.

Exported weights (`callbacks.export_effective_weights.ExportEffectiveWeights`) reproduce the logits of a network without
quantised activations and QKR, since StatsQ's scales follow from the weights. The plain network cannot hold QKR's
product or quantised activations. Ranges, scales and shifts of activations are in the JSON file next to the weights, by
layer. The command `export` writes a program that runs elsewhere with quantised activations and QKR.

Differences from the authors' code:

* every pretrained weight is kept, whereas their code reinitialises `proj` and, without QKR, `qkv`;
* scales exist from the start, for the network's number of tokens, and are measured on images without augmentation, the
  same on all ranks; their code measures on the first training batch of one rank;
* the gradient of an activation's scale counts the entries that share it over the global batch; their code counts over
  one rank's batch, where the gradient is larger by the square root of the world size; Adam's steps do not depend on it;
* whether images have both signs is decided in calibration, whereas in their code later images can change it;
* timm's Swin passes all tokens of an image to its MLPs in one row, with a scale for each token; torchvision's Swin has
  one scale for each column;
* weight decay follows only timm's default, which excludes biases, scales and shifts; a network's own list of exclusions
  (class token and positions of a ViT) is not used;
* CGA follows in the same run, at the schedule's current learning rate; in their code it is a separate run. With QKR,
  all weights of q and k train, as in the authors' code, where a mask on the product has no effect.

Source: Liu, Liu and Cheng, Oscillation-free Quantization for Low-bit Vision Transformers, ICML 2023, arXiv 2302.02210.
"""

from lightning_modules.efficiency.ofq.module import OFQ

__all__ = ["OFQ"]
