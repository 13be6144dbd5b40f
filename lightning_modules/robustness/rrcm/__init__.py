"""rRCM: pre-train representations that are consistent along noise trajectories; fine-tune for randomised smoothing.

Pre-training. Let h be a noise-conditioned encoder, and z the same encoder followed by a projector. The inputs are an
image x, lightly augmented by the DataModule, and two strongly augmented views a and b of x. The same noise e is added
to all three images, which are in [-1, 1]. Let t_q > t_{q+1} be two adjacent noise levels of a curriculum, and t_0 =
.002. All images of a batch use the same q. The target network z' is a moving average of z, and sg stops gradients. The
loss L is

    L_c = NCE(z(a + t_0 e, t_0), sg z'(b + t_0 e, t_0)) + NCE(z(b + t_0 e, t_0), sg z'(a + t_0 e, t_0)),
    L_k = NCE(h(x + t_q e, t_q), sg h(x + t_{q+1} e, t_{q+1})),
    L = L_c + L_k.

NCE is the loss in `losses/contrastive.py`, with negatives from all ranks. Moving from x + t e to x + t' e is a step of
the probability-flow ODE. L_c learns representations from nearly noise-free views. The consistency loss L_k therefore
extends these representations to all noise levels.

Fine-tuning. The encoder h, without the projector, and a linear head are trained on m noisy copies of each image. Let
p_1 ... p_m be the predicted probabilities for the copies, and p their mean. The loss is

    L = mean_j CE(p_j, y) + lambda mean_j KL(p || p_j) + eta H(p).

This is the consistency regularisation of Jeong and Shin (2020). The noise has the standard deviation sigma for images
in [0, 1], which is t = 2 sigma for images in [-1, 1]. The network is conditioned on the noise level nearest to t among
the 81 levels of pre-training. The smoothed classifier is certified as in Cohen et al. (2019).

Departures. Both sides of L_k use the features of the online encoder, as in the authors' code, which does so for every
value of its target option. Fine-tuning starts from a second moving average with a fixed decay, because neither the
paper nor the authors' code says which copy of the weights to use. The authors' script omits the head from the
optimizer; here, the head is trained, as in the paper. The authors drop the incomplete last batch of an epoch; here,
this batch is also used.

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094, with
the schedules and settings of the authors' code.
"""

from lightning_modules.robustness.rrcm.finetuning import RRCM, pretrained_encoder
from lightning_modules.robustness.rrcm.pretraining import Projector, RRCMPretraining

__all__ = ["RRCM", "Projector", "RRCMPretraining", "pretrained_encoder"]
