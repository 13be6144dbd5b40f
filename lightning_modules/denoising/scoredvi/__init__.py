"""ScoreDVI denoises each real image on its own, by variational inference with the score of blind Gaussian denoisers.

Four small networks receive the noisy image y as input, and are fitted to this image alone. For each pixel and channel,
the networks predict a Gaussian mixture for the clean image (K components with means mu_k and standard deviations
sigma_k), the noise precision of each component, and the mixture weights rho_k. The networks are fitted by minimising
the negative evidence lower bound

    rec + lambda x + phi + z + w        (see `elbo`)

The prior of clean images enters only through its score, (D_k(x) - x) / sigma_k^2, where D_k is a frozen denoiser that
was trained on white Gaussian noise. The weight lambda is 0.5, 1 or 2, depending on the estimated noise level
(`noise_level`). The estimate of the clean image is a running average, over the steps, of the mixture mean: avg <- 0.9
avg + 0.1 sum_k rho_k mu_k, starting at avg = y. If the mean of the sigma_k exceeds 0.05 at the end of the fit, the fit
is repeated once from new initial weights.

Departures: if pooling drops rows or columns, the U-Net pads with zeros instead of neighbouring values. This affects
images with sides that are not multiples of 16. If a side is not a multiple of 4, the noise estimate ignores the last
rows or columns, whereas the authors' code fails. A sub-image with fewer than two weak-texture patches counts as
noise-free; the authors' code computes a NaN for such a sub-image, and treats it in the same way.

Source: Cheng, Liu and Tan, Score Priors Guided Deep Variational Inference for Unsupervised Real-World Single Image
Denoising, ICCV 2023, arXiv 2308.04682, equations 11 to 18. As in the authors' code, each fit uses one image, batch
normalisation is in training mode, and rho receives a gradient from the value of the prior term.
"""

from lightning_modules.denoising.scoredvi.module import BlindDenoisers, ScoreDVI

__all__ = ["BlindDenoisers", "ScoreDVI"]
