"""Fine-tune a diffusion model on your own images: a latent text-to-image pipeline, or an unconditional pixel U-Net.

With z the image in [-1, 1] or its latent, noise e ~ N(0, I) and a uniform timestep t,

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,
    L = mean w_t |f(z_t, t, c) - target|^2,   w_t = min(SNR_t, gamma) / SNR_t   with   SNR_t = abar_t / (1 - abar_t),

for a network f that predicts e. For v-prediction the weight is min(SNR_t, gamma) / (SNR_t + 1), for z-prediction it is
min(SNR_t, gamma), so that the error of z always has weight min(SNR_t, gamma). Either all of f is trained, or low-rank
adapters W + B A of its attention. The caption c is dropped for a fraction of the images, as classifier-free guidance
requires. Validation, sampling and the saved model use the moving average e <- d e + (1 - d) theta of the weights, with
d = min(decay, (1 + n) / (10 + n)) in update n.

Source: Hang, Gu, Li, Bao, Chen, Hu, Geng and Guo, Efficient Diffusion Training via Min-SNR Weighting Strategy,
ICCV 2023, arXiv 2303.09556. The objective is that of Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models,
NeurIPS 2020, arXiv 2006.11239; the adapters are those of Hu et al., LoRA, ICLR 2022, arXiv 2106.09685.
"""

from lightning_modules.diffusion.finetuning.module import DiffusionFineTuning

__all__ = ["DiffusionFineTuning"]
