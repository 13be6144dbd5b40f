"""A pixel-space diffusion model, usually unconditional, with the interface of a latent text-to-image model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.backbones.diffusion.guidance import guided_model
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.sde.ddim import ddim, scheduler_path
from lightning_modules.sde.discrete import denoising_loss, run_diffusion_model, scheduler_levels, scheduler_prediction
from lightning_modules.training.evaluation_mode import evaluate_without_gradients


class PixelModel(nn.Module):
    """A network with its noise schedule, and with the interface of `backbones.diffusion.text_to_image.TextToImage`.

    Args:
        network: network that maps x_t, `[B, C, H, W]`, and t, `[B]`, to the quantity named by the scheduler's
            `prediction_type`. The output is a tensor or, as in diffusers, an object whose attribute `sample` is this
            tensor.
        scheduler: scheduler with which the network was trained; it defines the noise levels, the prediction type and
            the step spacing.
        text_encoder: encoder that embeds texts as `Prompts`, which the network receives as an additional input; None
            for a network without text conditioning.
    """

    alphas_cumprod: Tensor
    takes_negative_prompts: ClassVar[bool] = True
    """Whether guidance uses empty or negative prompts; relevant only if the model has a text encoder."""
    negative_prompt: str = ""
    """Negative prompt for guidance in `generate`; an empty string means the empty prompt."""

    def __init__(
        self, network: nn.Module, scheduler: DDPMScheduler | DDIMScheduler, text_encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.text_encoder: Any = text_encoder
        self.network = network
        self.scheduler = scheduler
        self.prediction = scheduler_prediction(scheduler)
        self.register_buffer("alphas_cumprod", torch.from_numpy(scheduler_levels(scheduler)).float(), persistent=False)

    def extra_repr(self) -> str:
        scheduler: Any = self.scheduler
        settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        return f"{type(scheduler).__name__} {settings}"

    def encode(self, image: Tensor, draw: Tensor | None = None) -> Tensor:
        """Rescale images from [0, 1] to [-1, 1]."""
        return to_signed(image)

    def decode(self, latent: Tensor) -> Tensor:
        """Rescale images from [-1, 1] to [0, 1]."""
        return to_unit(latent)

    def encode_prompts(self, texts: Sequence[str]) -> Prompts | None:
        """Embed texts; return None for a model without text conditioning."""
        return None if self.text_encoder is None else self.text_encoder.encode_prompts(texts)

    def empty_prompts(self, n: int) -> Prompts | None:
        """Embed the empty text n times; return None for a model without text conditioning."""
        return None if self.text_encoder is None else self.text_encoder.empty_prompts(n)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Predict the quantity named by the scheduler's `prediction_type` from x_t and the times t, `[B]`."""
        return run_diffusion_model(self._scaled_timestep(prompts), latent, timestep)

    def _scaled_timestep(self, prompts: Prompts | None) -> Callable[..., Any]:
        return self.network if prompts is None else partial(self.network, prompts=prompts)

    @evaluate_without_gradients
    def generate(
        self, noise: Tensor, num_inference_steps: int, prompts: Prompts | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Generate images in [0, 1] from standard normal noise, `[B, C, H, W]`, by deterministic DDIM steps."""
        path = scheduler_path(self.scheduler, num_inference_steps)
        given = self.encode_prompts([self.negative_prompt] * len(noise)) if self.negative_prompt else None
        model = guided_model(self, prompts, given or self.empty_prompts(len(noise)), guidance_scale)
        x = ddim(model, noise, path, scheduler_levels(self.scheduler), self.prediction, clip=True)
        return self.decode(x).clamp(0, 1)

    def denoising_loss(self, image: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Compute the network's mean squared prediction error for images in [0, 1], noised at random timesteps."""
        return denoising_loss(self._scaled_timestep(prompts), self.encode(image), self.alphas_cumprod, self.prediction)
