"""NoiseDiffusion interpolates two images by latents that it first brings back to what the model takes for noise.

DDIM steps encode both images z_A and z_B as l_A and l_B at the level abar_t. Those of natural images are no standard
normal numbers, as those of images that the model made are: too large, with extreme values, so their spherical
interpolation decodes to artefacts. Clipped to [-c, c], mixed with a little noise e, and with some of the images'
signal put back,

    x = alpha l_A + beta l_B + (mu - alpha) sqrt(abar_t) z_A + (nu - beta) sqrt(abar_t) z_B + gamma sqrt(1 - abar_t) e,

x is clipped to [-c, c] again, and decoded. At lambda in [0, 1] alpha / beta = cot(lambda pi / 2) with
alpha^2 + beta^2 + gamma^2 = 1, and mu / nu = alpha / beta with mu + nu = 1.2. With gamma = 0, mu = alpha, nu = beta and
without clipping this is spherical interpolation of orthogonal latents; with gamma = 1, SDEdit of a mixture of images.

The paper gives no rule for mu + nu, c and gamma: numbers here are those of the authors' code, which encodes up to the
time t = 696 and puts images back at the level of 701, the next step (`injection: next`). What differs from it: one e
for all lambda of a pair, where the code draws anew; angles are each pair's own, where the code has batches of one; and
lambda = 0 and 1 are allowed. Processes whose variance explodes are refused: the bound c has the units of noise of
variance 1.

Source: Zheng, Zhang, Fang, Liu, Lian and Han, NoiseDiffusion: Correcting Noise for Image Interpolation with Diffusion
Models beyond Spherical Linear Interpolation, ICLR 2024, arXiv 2403.08840.
"""

from lightning_modules.diffusion.noise_diffusion.module import NoiseDiffusion as NoiseDiffusion
