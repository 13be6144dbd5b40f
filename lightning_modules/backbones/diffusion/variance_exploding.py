"""Convert variance-exploding (VE) score models to pixel-space diffusion models that predict noise of variance 1.

Let u be an image in [0, 1], e standard normal noise and s_t a noise level. From the noisy image u_t = u + s_t e, a VE
model estimates the score -e / s_t. Let x = 2 u - 1 and abar_t = 1 / (1 + 4 s_t^2). Then the rescaled noisy image

    x_t = sqrt(abar_t) (2 u_t - 1) = sqrt(abar_t) x + sqrt(1 - abar_t) e

follows a variance-preserving diffusion. The probability-flow ODEs of the two diffusions are equivalent.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, for VE; Karras, Aittala, Aila and Laine, Elucidating the Design
Space of Diffusion-Based Generative Models, NeurIPS 2022, arXiv 2206.00364, for the change of variables.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.pixel_ranges import to_unit
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.sde.discrete import noise_levels, scheduler_levels


class VarianceExploding(PixelModel):
    """Wrap a VE score model as a `PixelModel` that predicts the noise e from x_t.

    Args:
        network: network that computes the score from u_t, `[B, C, H, W]`, and s_t, `[B]`, such as
            `lightning_modules.networks.ncsnpp.NCSNpp` or a `UNet2DModel` of diffusers.
        sigma_min: smallest noise level s, on the scale of images in [0, 1].
        sigma_max: largest noise level s.
        num_levels: number of noise levels; the levels form a geometric sequence.
    """

    def __init__(
        self, network: nn.Module, sigma_min: float = 0.01, sigma_max: float = 50.0, num_levels: int = 1000
    ) -> None:
        positive(sigma_min=sigma_min)
        at_least(2, num_levels=num_levels)
        if sigma_max <= sigma_min:
            raise ValueError(f"sigma_max must be above sigma_min {sigma_min:g}, got {sigma_max:g}")
        abar = 1 / (1 + 4 * np.geomspace(sigma_min, sigma_max, num_levels) ** 2)
        betas = 1 - abar / np.append(1.0, abar[:-1])
        scheduler: Any = DDIMScheduler(
            num_levels, trained_betas=betas, clip_sample=False, steps_offset=1, set_alpha_to_one=False
        )
        super().__init__(NoiseOfScore(network, scheduler), scheduler)


class NoiseOfScore(nn.Module):
    """Predict the noise e from x_t and the timesteps t, `[B]`, with a VE score model.

    Args:
        network: see `VarianceExploding`.
        scheduler: diffusers scheduler that defines abar_t.
    """

    sigmas: Tensor

    def __init__(self, network: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.network = network
        sigmas = torch.from_numpy(noise_levels(scheduler_levels(scheduler))).float()
        self.register_buffer("sigmas", sigmas, persistent=False)

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        level = self.sigmas[t].to(noisy.dtype)
        sigma = level.view(-1, 1, 1, 1)
        output = self.network(to_unit(noisy * (1 + 4 * sigma**2).sqrt()), level)
        return -sigma * (output if isinstance(output, Tensor) else output.sample)


class ScoreOfDenoiser(nn.Module):
    """Compute the score of u_t from a Gaussian denoiser D by Tweedie's formula, (D(u_t) - u_t) / s_t^2.

    Args:
        network: denoiser D, such as `lightning_modules.networks.bias_free_dncnn.BiasFreeDnCNN`. It maps noisy images
            `[B, C, H, W]` to clean images, and does not receive the noise level.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        return (self.network(noisy) - noisy) / level.view(-1, 1, 1, 1) ** 2
