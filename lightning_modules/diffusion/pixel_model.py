"""A diffusion model of images themselves in the place of a latent text-to-image model, without texts and latents."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from lightning_modules.sde.ddim import ddim, scheduler_path
from lightning_modules.sde.discrete import denoising_loss, predicted, scheduler_levels, scheduler_prediction


class PixelModel(nn.Module):
    """A noise-predicting network and its schedule, with the methods of `networks.text_to_image.TextToImage`.

    Args:
        network: called with x_t, `[B, C, H, W]`, and t `[B]`, it predicts what the scheduler says; gives a tensor, or
            an object with a tensor `sample` as diffusers' networks.
        scheduler: scheduler that the network was trained with, of which levels, prediction type and spacing are used.

    Raises:
        ValueError: if the scheduler's prediction type is none of epsilon, v_prediction and sample.
    """

    alphas_cumprod: Tensor

    def __init__(self, network: nn.Module, scheduler: DDPMScheduler | DDIMScheduler) -> None:
        super().__init__()
        self.network = network
        self.scheduler = scheduler
        self.prediction = scheduler_prediction(scheduler)
        self.register_buffer("alphas_cumprod", torch.from_numpy(scheduler_levels(scheduler)).float(), persistent=False)

    def extra_repr(self) -> str:
        scheduler: Any = self.scheduler
        settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        return f"{type(scheduler).__name__} {settings}"

    def encode(self, image: Tensor, draw: Tensor | None = None) -> Tensor:
        """Bring images in [0, 1] to [-1, 1]."""
        return 2 * image - 1

    def decode(self, latent: Tensor) -> Tensor:
        """Bring images in [-1, 1] to [0, 1]."""
        return (latent + 1) / 2

    def encode_prompts(self, texts: Sequence[str]) -> None:
        """Texts say nothing to it."""

    def empty_prompts(self, n: int) -> None:
        """Neither does the empty text."""

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Any = None) -> Tensor:
        """Predict what the scheduler's `prediction_type` says, at x_t and t, `[B]`."""
        return predicted(self.network, latent, timestep)

    @torch.no_grad()
    def generate(self, noise: Tensor, num_inference_steps: int) -> Tensor:
        """Make images `[B, C, H, W]` in [0, 1] of standard normal noise of that shape, by deterministic DDIM steps."""
        path = scheduler_path(self.scheduler, num_inference_steps)
        x = ddim(self, noise, path, scheduler_levels(self.scheduler), self.prediction, clip=True)
        return self.decode(x).clamp(0, 1)

    def denoising_loss(self, image: Tensor) -> Tensor:
        """Compute the mean squared error of the network at random levels, for images in [0, 1]: a number."""
        return denoising_loss(self.network, self.encode(image), self.alphas_cumprod, self.prediction)
