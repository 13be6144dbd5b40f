"""NoiseDiffusion interpolates between natural images after correcting their latents towards the noise distribution.

DDIM inversion encodes the two images z_A and z_B as the latents l_A and l_B at the noise level abar_t. Latents of
generated images are standard normal, but latents of natural images are not: they are too large and have extreme values.
Spherical interpolation between such latents therefore decodes to images with artefacts. NoiseDiffusion clips the
latents to [-c, c], mixes them with a small amount of noise e, and adds a part of both images z_A and z_B:

    x = alpha l_A + beta l_B + (mu - alpha) sqrt(abar_t) z_A + (nu - beta) sqrt(abar_t) z_B + gamma sqrt(1 - abar_t) e.

Then x is clipped to [-c, c] again, and decoded. The position lambda in [0, 1] determines the weights: alpha / beta =
cot(lambda pi / 2) with alpha^2 + beta^2 + gamma^2 = 1, and mu / nu = alpha / beta with mu + nu = 1.2. The method equals
spherical interpolation under these conditions: gamma = 0, mu = alpha, nu = beta, the latents are orthogonal, and
nothing is clipped. With gamma = 1, it equals SDEdit applied to a mixture of the two images.

The paper does not state how to choose mu + nu, c and gamma. The defaults follow the authors' code, which encodes up to
timestep t = 696, and adds the images at the noise level of the next step, t = 701 (`mixing.injection: next`).
Departures: here, all positions lambda of a pair share the same noise e, whereas the authors' code samples new noise for
each position. Angles are computed for each pair of a batch, whereas the authors' code always has batch size 1. The
positions lambda = 0 and lambda = 1 are allowed. The bound c assumes noise of variance 1. For variance-exploding models,
`lightning_modules.backbones.diffusion.variance_exploding.VarianceExploding` rescales the noisy images so that the noise
has variance 1.

Source: Zheng, Zhang, Fang, Liu, Lian and Han, NoiseDiffusion: Correcting Noise for Image Interpolation with Diffusion
Models beyond Spherical Linear Interpolation, ICLR 2024, arXiv 2403.08840.
"""

from lightning_modules.diffusion.noise_diffusion.module import NoiseDiffusion as NoiseDiffusion
