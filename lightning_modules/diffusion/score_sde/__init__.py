"""Score-based generative modelling with SDEs: a learned score reverses a diffusion process from data to noise.

The diffusion process dx = f(x, t) dt + g(t) dw turns data into noise. Let p_t be the density of x_t, and let the score
s(x, t) be the gradient of log p_t. The reverse-time process dx = (f - g^2 s) dt + g dw and the ordinary differential
equation dx = (f - g^2 s / 2) dt turn noise into data. Given x_0, x_t equals mean + std z with z ~ N(0, I). A network
for the score is trained to minimise

    E_{t,x,z} w(t) R((s(x_t, t) + z / std)^2),   w = std^2, or g^2 for the likelihood.

Here R is either the mean or half of the sum over the values of an image, and t is uniform in [1e-5, 1]. For the VE
process, the network predicts the score from x_t and sigma(t), and images are in [0, 1]. For the VP and sub-VP
processes, the network predicts z from x_t and 999 t, and images are in [-1, 1]. The original discrete models, SMLD and
DDPM, have N noise levels. The network of SMLD receives the index of the noise level, where index 0 is the largest noise
level. Sampling, likelihoods and denoising use an exponential moving average of the weights, whose decay in update n is
min(d, (1 + n) / (10 + n)).

Conditional sampling does not require retraining the score model. For inpainting, the known pixels are diffused to the
time of each step, and inserted into the sample. Colourisation does the same in a rotated colour space, in which the
first channel is the grey value. For class labels, a noise-conditional classifier adds the gradient of log p(y | x_t) to
the score.

The ODE maps each image to one latent, and each latent to one image: `load_run(RUN).encode(images)` and
`decode(latents)`.

Departures: outside the known region, the authors' inpainting code computes the noise-free mean from the noisy sample.
Here, the noise-free mean is that of the predictor, and known pixels are inserted from the first step on. The authors'
corrector fails for sub-VP. Here, the corrector uses a = 1 - beta_i for sub-VP, as it does for VP. In the corrector,
each rank averages norms over its own part of the batch.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, with the hyperparameters of the authors' code.
"""

from lightning_modules.diffusion.score_sde.classifier import NoiseConditionalClassifier
from lightning_modules.diffusion.score_sde.conditions import ClassGuidance
from lightning_modules.diffusion.score_sde.module import ScoreSDE
from lightning_modules.diffusion.score_sde.pretrained import pretrained_process

__all__ = ["ClassGuidance", "NoiseConditionalClassifier", "ScoreSDE", "pretrained_process"]
