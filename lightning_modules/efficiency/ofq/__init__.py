"""Train vision transformers with few bits, without weights that swing between two levels (OFQ).

In quantisation-aware training a trained weight near a threshold of rounding goes back and forth between two levels.
OFQ holds a learned scale, and query and key weights that move each other, responsible, and changes three things. With b
bits, n = 2^(b - 1) and rows W_i of a weight:

    Q(W)_ij = s_i (round(t_ij) + 1/2) / n,    t = clip(W / s, -1, 1) n - 1/2,    s_i = 2 mean_j |W_ij|          (StatsQ)

whose gradient is that of W, for clipped entries too;

    logits_h = x^ LSQ(x^ Q(W_q,h^T W_k,h)^T)^T / sqrt(d)                                                         (QKR)

of each head h, where the product of query and key weights is quantised in place of the two, which have no bias; and
confidence-guided annealing (CGA): in the last epochs only weights with |t - threshold| <= BR train, the others keep
their values bit by bit. Activations, and weights of the first layer and the heads, have learned scales (LSQ) with
learned shifts around: s round(clip((x + beta) / s, Q_n, Q_p)) + beta'. A full-precision network teaches:

    loss = cross-entropy(logits, label) + cross-entropy(logits of the distillation head, softmax(teacher)).

`train/oscillating` is the part of StatsQ weights whose integer turns back in more than 1 of 200 steps (an average of
momentum 0.01), `train/annealed` the part that CGA trains. `latent_weights` shows them between their thresholds.

Exported weights (`callbacks.export_effective_weights.ExportEffectiveWeights`) give the logits of a network without
quantised activations and without QKR, as StatsQ's scales are theirs. A plain network has no place for QKR's product,
nor for quantised activations: these need ranges, scales and shifts, which the JSON file beside the weights tells layer
by layer.

Differences from the authors' code:

* every pre-trained weight is kept, there `proj`, and `qkv` without QKR, begin anew;
* scales exist from the start for the number of tokens that the network has, and are measured with images that are not
  augmented, the same in all processes; there with the first training batch of one of them;
* the gradient of an activation's scale counts what shares it in the global batch, there in that of one process, so
  that it is the root of their number larger; Adam takes no notice;
* whether images have both signs is decided in calibration, there by any image later on, too;
* timm's Swin gives its perceptrons all tokens in a row, which have a scale each, torchvision's one for each column;
* timm's default alone says what does not decay, biases, scales and shifts; its list for a network (class token and
  places of a ViT) is not asked for;
* CGA follows in the same run, at whatever rate the schedule has come to; there it is one of its own. With QKR it
  trains all of q and k, as there, where a mask on their product has no effect.

Source: Liu, Liu and Cheng, Oscillation-free Quantization for Low-bit Vision Transformers, ICML 2023, arXiv 2302.02210.
"""

from lightning_modules.efficiency.ofq.module import OFQ

__all__ = ["OFQ"]
