"""ScoreDVI denoises each real image on its own, by variational inference with the score of blind Gaussian denoisers.

Four small networks take the noisy image y, and are fitted to this image alone. For each pixel and channel, the networks
predict a Gaussian mixture of K components for the clean image, the noise precision of each component, and the mixture
weights. The networks minimise the negative evidence lower bound

    rec + lambda x + phi + z + w        (see `elbo`)

The prior of clean images enters only through its score: (D_k(x) - x) / sigma_k^2 for a frozen denoiser D_k that was
trained on white Gaussian noise. lambda is 0.5, 1 or 2, by the estimated noise level (`noise_level`). The estimate is a
running average of the mixture mean over the steps: avg <- 0.9 avg + 0.1 sum_k rho_k mu_k, starting at avg = y. If the
final mean sigma exceeds 0.05, the fit is repeated once from new weights.

Departures: where pooling drops rows and columns, the U-Net pads with zeros instead of neighbouring values. This affects
images with sides that are not multiples of 16. The noise estimate ignores the last rows and columns if a side is not a
multiple of 4. The authors' code fails for such images. A sub-image with fewer than two weak-texture patches counts as
noise-free. The authors' code treats the resulting NaN in the same way.

Source: Cheng, Liu and Tan, Score Priors Guided Deep Variational Inference for Unsupervised Real-World Single Image
Denoising, ICCV 2023, arXiv 2308.04682, equations 11 to 18. As in the authors' code, each fit has one image, batch
normalisation is in training mode, and rho receives a gradient from the value of the prior term.
"""

from lightning_modules.denoising.scoredvi.module import BlindDenoisers, ScoreDVI

__all__ = ["BlindDenoisers", "ScoreDVI"]
