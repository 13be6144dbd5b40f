"""Sampling of images from improved initial noise; it works on texts and tensors, without a Trainer."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.training.evaluation_mode import evaluate_without_gradients

Start = Literal["golden", "standard", "redenoised"]


class GoldenSampling:
    """Mixin of a module with NPNet as `network` and a frozen diffusion model as `model`."""

    plain_start: ClassVar[Start] = "standard"
    takes_prompts: ClassVar[bool] = True
    generator_per_image: ClassVar[bool] = True

    @evaluate_without_gradients
    def latents_for(self: Any, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Compute initial latents, the argument `latents`, for an unmodified diffusers pipeline of the model's kind.

        Args:
            noise: standard normal noise, `[B, c, h, w]`, which the pipeline would otherwise sample itself.
            texts: B texts.
        """
        return self.network(noise, self.model.encode_prompts(texts))

    @evaluate_without_gradients
    def images(self: Any, noise: Tensor, texts: Sequence[str], generator: Any = None) -> Tensor:
        given: dict[str, Any] = {"generator": generator} if isinstance(self.model, TextToImage) else {}
        given |= {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        return self.model.generate(noise=noise, prompts=self.model.encode_prompts(texts), **given)

    def initial_latents_of(self: Any, noise: Tensor, texts: Sequence[str], start: Start | None = None) -> Tensor:
        """Return the initial latents of images; the argument `start`, if given, overrides the module's `start`."""
        starts: dict[str, Callable[..., Tensor]] = {"golden": self.latents_for, "redenoised": self.better}
        chosen = start or self.start
        return starts[chosen](noise, texts) if chosen in starts else noise

    def sample(self: Any, n: int, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Sample n images in [0, 1], `[n, C, H, W]`, for `prompts` in turn; pass one generator or one per image."""
        return self.generate([self.prompts[place % len(self.prompts)] for place in range(n)], generator)

    @evaluate_without_gradients
    def generate(
        self: Any, texts: Sequence[str], generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """Sample an image in [0, 1] for each of B texts, `[B, C, H, W]`; pass one generator or one per image."""
        shape: Any = (len(texts), *self.network.latent_shape)
        noise = randn_tensor(shape, generator, dtype=self.dtype).to(self.device)
        return self.images(self.initial_latents_of(noise, texts), texts, generator)
