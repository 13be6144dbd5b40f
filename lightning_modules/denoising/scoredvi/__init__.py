"""ScoreDVI denoises one real image at a time, by variational inference with the score of blind Gaussian denoisers.

Four small networks, which see the noisy image y, are fitted to it alone. They give, for each pixel and channel, a
Gaussian mixture of the clean image with K components, the precision of the noise of each, and the mixture's weights;
what they maximise is the evidence bound

    rec + lambda x + phi + z + w        (see `elbo`)

in which the clean image's prior enters by its score alone: (D_k(x) - x) / sigma_k^2 for a frozen denoiser D_k that was
trained on white Gaussian noise. lambda is 0.5, 1 or 2 by how noisy the image is (`noise_level`). The estimate is the
mixture's mean, averaged over the steps: avg <- 0.9 avg + 0.1 sum_k rho_k mu_k, from avg = y. If the mean sigma is above
0.05 at the end, the fit is made once more from other weights.

Departures: the U-Net fills rows and columns that a pooling drops with zeros, not with their neighbours, which matters
for sides that are no multiples of 16; rows and columns beyond a multiple of 4 are left out of the noise estimate, which
the code refuses; and a sub-image without two weak patches counts as free of noise, as the code's nan does.

Source: Cheng, Liu and Tan, Score Priors Guided Deep Variational Inference for Unsupervised Real-World Single Image
Denoising, ICCV 2023, arXiv 2308.04682, equations 11 to 18, and the authors' code, whose order of one image a fit,
batch normalisation in training mode, and gradient of rho from the prior's value it follows.
"""

from lightning_modules.denoising.scoredvi.module import BlindDenoisers, ScoreDVI

__all__ = ["BlindDenoisers", "ScoreDVI"]
