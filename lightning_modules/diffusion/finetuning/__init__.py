"""Fine-tune a latent text-to-image pipeline or an unconditional pixel-space U-Net on your own images.

Let z be an image in [-1, 1] or its latent, c its caption, e ~ N(0, I) noise, and t a uniformly sampled timestep. A
network f is trained with the loss L:

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,
    L = mean w_t |f(z_t, t, c) - target|^2,   w_t = min(SNR_t, gamma) / SNR_t   with   SNR_t = abar_t / (1 - abar_t).

This formula for w_t is for a network f that predicts e. The weight is min(SNR_t, gamma) / (SNR_t + 1) if f predicts v,
and min(SNR_t, gamma) if f predicts z. In all three cases, the error of the estimated z has the weight min(SNR_t,
gamma). Training updates either all weights of f, or only low-rank adapters, which change weights W in the attention
layers of f to W + B A. For a fraction of the images, training omits the caption c, as classifier-free guidance
requires. Validation, sampling and the saved model use a moving average of the weights theta. In the formula for update
n of this average, e is the average instead of the noise: e <- d e + (1 - d) theta, with d = min(decay, (1 + n) / (10 +
n)).

A flow-matching model, such as Stable Diffusion 3 or FLUX.1, predicts the velocity e - z:

    z_t = (1 - t) z + t e,   L = mean w_t |f(z_t, t, c) - (e - z)|^2,   t in [0, 1].

The time t is sampled from one of three densities (uniform, logit-normal or mode), and then shifted as in the pipeline's
sampler. For FLUX.1 and Qwen-Image, the shift depends on the resolution. The weight w_t is 1, 1 / t^2 or 2 / (pi (1 - 2
t + 2 t^2)). In contrast to diffusers' training scripts, t is continuous and has the direction of the paper: a positive
mean of logit(t) favours noise.

For prior preservation, as in DreamBooth (arXiv 2208.12242), the model generates class images (`data.prior`) once before
training. Training then minimises L + lambda L_prior, where L_prior is the loss of the class images. Offset noise
replaces e with e + s n, with one n ~ N(0, 1) for each channel. Masks weight the squared error of each pixel. Images
with different aspect ratios are sorted into buckets, and each batch is taken from one bucket. SDXL is conditioned on
the original size and the crop position of each image.

The guide `docs/fine_tuning.md` lists the model families.

Source: Hang, Gu, Li, Bao, Chen, Hu, Geng and Guo, Efficient Diffusion Training via Min-SNR Weighting Strategy,
ICCV 2023, arXiv 2303.09556. The objective is that of Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models,
NeurIPS 2020, arXiv 2006.11239; flow matching is that of Esser et al., Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis, ICML 2024, arXiv 2403.03206; the adapters are those of Hu et al., LoRA, ICLR 2022,
arXiv 2106.09685.
"""

from lightning_modules.diffusion.finetuning.controlnet import ControlNet
from lightning_modules.diffusion.finetuning.module import DiffusionFineTuning
from lightning_modules.diffusion.finetuning.textual_inversion import TextualInversion

__all__ = ["ControlNet", "DiffusionFineTuning", "TextualInversion"]
