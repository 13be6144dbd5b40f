"""Score-based generative modelling: data are diffused to noise, and a network learns the way back.

A process dx = f(x, t) dt + g(t) dw turns data into noise. With the score s(x, t) of x_t, the gradient of log p_t, the
reverse-time process dx = (f - g^2 s) dt + g dw and the ordinary differential equation dx = (f - g^2 s / 2) dt turn
noise into data. With x_t = mean + std z given x_0, z ~ N(0, I), a network is trained on

    E_t,x,z  w(t) R((s(x_t, t) + z / std)^2),   w = std^2, or g^2 for the likelihood,

with R the mean over an image's values or half of their sum, and t uniform in [1e-5, 1]. Of VE the network estimates the
score under noise sigma(t), and images are in [0, 1]; of VP and sub-VP it predicts z at time 999 t, and images are in
[-1, 1]. The original discrete models have N levels: SMLD, which is told the number of its level from the largest noise
down, and DDPM. Samples, likelihoods and denoised images are of an average of the weights over training, which keeps
min(d, (1 + n) / (10 + n)) in its n-th update.

Conditions need no other training: what is known of an image is diffused to each time and put into the sample there
(inpainting; colourisation in rotated colours, whose first channel is grey), and a classifier that is told the noise
adds the gradient of log p(y | x_t) to the score.

Departures. The authors' inpainting rebuilds the noise-free mean from the noised sample outside the known region; here
it is the predictor's mean, and what is known is there at the first step already. Their corrector fails for sub-VP,
where here a = 1 - beta_i as for VP. Norms of the corrector are means over a process's own batch.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, with the settings of the authors' code.
"""

from lightning_modules.diffusion.score_sde.classifier import NoiseConditionalClassifier
from lightning_modules.diffusion.score_sde.conditions import ClassGuidance
from lightning_modules.diffusion.score_sde.module import ScoreSDE
from lightning_modules.diffusion.score_sde.pretrained import pretrained_process

__all__ = ["ClassGuidance", "NoiseConditionalClassifier", "ScoreSDE", "pretrained_process"]
