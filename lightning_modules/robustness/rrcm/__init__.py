"""rRCM: pre-train representations that are consistent along a noise trajectory; fine-tune for randomised smoothing.

Pre-training. A noise-conditioned network h has a projector z. It takes an image x, lightly augmented by the DataModule,
and two strongly augmented views a and b of x. All three images are in [-1, 1] and get the same noise e. Let t_q >
t_{q+1} be noise levels of a curriculum with t_0 = .002. All images of a batch have the same q. The target network z' is
a moving average of z. sg stops gradients. The loss L is

    L_c = NCE(z(a + t_0 e, t_0), sg z'(b + t_0 e, t_0)) + NCE(z(b + t_0 e, t_0), sg z'(a + t_0 e, t_0)),
    L_k = NCE(h(x + t_q e, t_q), sg h(x + t_{q+1} e, t_{q+1})),
    L = L_c + L_k.

NCE is the loss in `losses/contrastive.py`. The move from x + t e to x + t' e is a step of the probability-flow ODE.
Representations learned by contrasting nearly noise-free views therefore carry over to all noise levels. Negatives come
from all ranks.

Fine-tuning. The encoder h and a linear head are trained on m noisy copies of each image. The projector is not used. For
the predictions p_1 ... p_m on the copies and their mean p, the loss is

    L = mean_j CE(p_j, y) + lambda mean_j KL(p || p_j) + eta H(p).

This loss is the consistency regularisation of Jeong and Shin (2020). The noise has standard deviation sigma, which is 2
sigma for images in [-1, 1]. The network has 81 noise levels, and is conditioned on the nearest t. The smoothed
classifier is certified as that of Cohen et al. (2019).

Departures. Both sides of L_k use the features of the encoder and the online network. The code of the authors does this
for every value of its target option. Fine-tuning starts from a second moving average with a fixed decay. Neither the
paper nor the code says which copy to use. The script of the authors omits the head from the optimizer. Here the head is
trained, as in the paper. The authors drop the incomplete final batch of an epoch. Here this batch is also used.

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094, with
the schedules and settings of the authors' code.
"""

from lightning_modules.robustness.rrcm.finetuning import RRCM, pretrained_encoder
from lightning_modules.robustness.rrcm.pretraining import Projector, RRCMPretraining

__all__ = ["RRCM", "Projector", "RRCMPretraining", "pretrained_encoder"]
