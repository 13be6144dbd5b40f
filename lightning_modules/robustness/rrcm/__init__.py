"""rRCM: representations that agree along a diffusion trajectory, pre-trained and tuned for randomised smoothing.

Pre-training. A network h with a projector z, told the noise level, sees an image x, lightly augmented as its DataModule
does, and two strong views a, b of it, in [-1, 1], all with the same noise e. With the levels t_q > t_{q+1} of a
curriculum, one q for the whole batch, t_0 = .002, sg the stop of gradients and z' the target network, a moving average,

    L_c = NCE(z(a + t_0 e, t_0), sg z'(b + t_0 e, t_0)) + NCE(z(b + t_0 e, t_0), sg z'(a + t_0 e, t_0)),
    L_k = NCE(h(x + t_q e, t_q), sg h(x + t_{q+1} e, t_{q+1})),
    L = L_c + L_k,

with NCE of `losses/contrastive.py`. x + t' e is a step of the probability-flow ODE from x + t e, so the contrast
between views at hardly any noise is carried over to all noise levels. Negatives come from all processes.

Tuning. The encoder h, without its projector, and a linear head are trained on m noisy copies of each image. With their
predictions p_1 ... p_m and the mean p,

    L = mean_j CE(p_j, y) + lambda mean_j KL(p || p_j) + eta H(p),

the regularisation of Jeong and Shin (2020). The noise is exactly sigma; the network is told the nearest t of its 81
levels to 2 sigma, the noise of images in [-1, 1]. The smoothed classifier is certified as that of Cohen et al. (2019).

Departures. L_k is of the encoder's features and of the online network on both sides, as in the authors' code, whatever
its option for the target says. A second average, with a fixed rate, is what tuning reads from a checkpoint: neither
paper nor code say which copy it begins with. The authors' script leaves the head out of the optimizer; here it is
trained, as in the paper. The authors leave out an epoch's incomplete last batch; here it is trained on, too.

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094, with
the schedules and settings of the authors' code.
"""

from lightning_modules.robustness.rrcm.finetuning import RRCM
from lightning_modules.robustness.rrcm.pretrained import pretrained_encoder
from lightning_modules.robustness.rrcm.pretraining import RRCMPretraining
from lightning_modules.robustness.rrcm.projector import Projector

__all__ = ["RRCM", "Projector", "RRCMPretraining", "pretrained_encoder"]
