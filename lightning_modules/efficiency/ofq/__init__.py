"""Train vision transformers with low bit-widths, and prevent weights from oscillating between two levels (OFQ).

In quantisation-aware training, a trained weight near a rounding threshold may oscillate between two levels. OFQ
attributes oscillation to learned scales, and to query and key weights that influence each other. OFQ therefore makes
three changes. The first change is a quantizer whose scale is computed from the weights instead of being learned. With b
bits and n = 2^(b - 1), a weight W with rows W_i is quantised to

    Q(W)_ij = s_i (round(t_ij) + 1/2) / n,    t = clip(W / s, -1, 1) n - 1/2,    s_i = 2 mean_j |W_ij|          (StatsQ)

The gradient with respect to Q(W) is passed to W, also for clipped entries. The second change concerns the logits of
attention head h for input x^:

    logits_h = x^ LSQ(x^ Q(W_{q,h}^T W_{k,h})^T)^T / sqrt(d)                                                     (QKR)

For each head, the product of the query and key weights is quantised as one weight, and the biases are omitted. The
third change is confidence-guided annealing (CGA): in the last epochs, only weights whose position t is within BR of a
rounding threshold are trained. All other weights keep their exact values. Activations, and the weights of the first
layer and the heads, are quantised with learned scales (LSQ) and with learned shifts before and after: s round(clip((x +
beta) / s, Q_n, Q_p)) + beta'. The network is trained with distillation from a full-precision teacher:

    loss = cross-entropy(logits, label) + cross-entropy(logits of the distillation head, softmax(teacher)).

With `weight_quantizer: lsq`, the weights of the blocks also have learned scales, as in the paper's baselines. With two
bits, the levels of LSQ are -2 s, -s, 0 and s, and those of StatsQ are symmetric. With `lsq_half`, learned scales have
StatsQ's levels s (i + 1/2), so that the two differ only in the origin of the scale.

`train/oscillating` is the fraction of the weights in the transformer blocks that oscillate. A weight counts as
oscillating if the integer to which it is quantised reverses its direction in more than 1 of 200 steps (a running
average with momentum 0.01). Without QKR, `train/oscillating_query_key` is this fraction for the query and key weights,
`train/oscillating_value` for the value weights of the same layers, and `train/oscillating_others` for all other
weights. `train/annealed` is the fraction of weights that are trained during CGA. The table `latent_weights` shows how
the full-precision weights are distributed between the rounding thresholds.

A plain network with the exported weights (`callbacks.export_effective_weights.ExportEffectiveWeights`) computes the
same logits if neither quantised activations nor QKR are used. A plain network can represent neither quantised
activations nor the product of QKR. The ranges, scales and shifts of activations are written, for each layer, to a JSON
file next to the weights. The command `export` writes a program that includes quantised activations and QKR, and does
not need this project.

This implementation differs from the authors' code in the following points:

* all pretrained weights are kept, whereas the authors' code reinitialises `proj` and, without QKR, `qkv`;
* scales are created at the start, for the network's number of tokens, and are measured on images without augmentation,
  which are the same on all ranks, whereas the authors' code measures scales on the first training batch of one rank;
* the gradient of an activation's scale is normalised by the number of entries that share the scale in the global batch,
  whereas the authors' code counts entries in the batch of one rank, which makes the gradient larger by the square root
  of the world size (the steps of Adam do not depend on this factor);
* calibration determines whether images have values of both signs, whereas in the authors' code, later images can change
  this setting;
* timm's Swin, which is used here, processes all tokens of an image as one sequence in its MLPs, so there is one scale
  for each token, whereas torchvision's Swin has one scale for each column;
* weight decay follows timm's default, which excludes biases, scales and shifts, but does not use a network's own list
  of exclusions (such as the class token and the positional embedding of a ViT);
* CGA is part of the same run, and continues with the current learning rate of the schedule, whereas it is a separate
  run in the authors' code.

With QKR, all weights of q and k are trained during CGA, as in the authors' code, where a mask on the product has no
effect.

Source: Liu, Liu and Cheng, Oscillation-free Quantization for Low-bit Vision Transformers, ICML 2023, arXiv 2302.02210.
"""

from lightning_modules.efficiency.ofq.module import OFQ

__all__ = ["OFQ"]
