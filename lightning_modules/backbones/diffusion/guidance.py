"""Classifier-free guidance, which amplifies the effect of a prompt on the prediction.

    e = e_u + w (e_c - e_u)

Here e_c is the prediction for the prompt, e_u is the prediction for an empty or negative prompt, and w is the guidance
scale. `guided_model` applies guidance to any model. `PipelineSampling` runs a diffusers pipeline, which applies
guidance itself.

Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import at_least
from lightning_modules.backbones.diffusion.text_encoders import Prompts, concatenate_prompts
from lightning_modules.sde.stochastic_steps import stepping_with


@dataclass(frozen=True)
class Sampling:
    """How images are sampled with a diffusion model.

    Args:
        steps: number of sampling steps.
        guidance_scale: scale of classifier-free guidance; 1 disables guidance.
    """

    steps: int = 50
    guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        at_least(0, guidance_scale=self.guidance_scale)


def guided_model(
    model: Callable[..., Tensor], prompts: Prompts | None, negative: Prompts | None, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Turn a text-conditional model into a function of x_t and t only, which applies guidance.

    Args:
        model: function of x_t, t and prompts.
        prompts: B prompts for the conditional prediction e_c; None for a model without texts.
        negative: B negative or empty prompts for the prediction e_u; None for a model without texts. They are not used
            if `scale` is 1.
        scale: w, guidance scale; with 1, the model is evaluated only for `prompts`.
    """
    if prompts is None or negative is None or scale == 1:
        return lambda x, t: model(x, t, prompts)
    both = concatenate_prompts([negative, prompts])

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        without, given = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return without + scale * (given - without)

    return prediction


class PipelineSampling:
    """Mixin for text-to-image models; it generates images with a model's diffusers pipeline.

    The model must define the pipeline and the methods that embed prompts.
    """

    pipeline: Any
    image_size: Any
    negative_prompts: Callable[[str, int], Prompts]
    takes_negative_prompts: bool = True
    """Whether this model's guidance uses empty or negative prompts."""
    takes_source: bool = False
    """Whether the model edits a source image, whose latents are the argument `source` of `forward`."""
    negative_prompt: str = ""
    """Negative prompt for guidance in `generate`; an empty string means the empty prompt."""

    @property
    def latent_scale(self) -> int:
        """Height and width, in image pixels, of the image area that corresponds to one pixel of z."""
        return self.pipeline.vae_scale_factor

    @property
    def default_size(self) -> tuple[int, ...]:
        """Height and width of images of the size of training; for clips, after the number of frames."""
        return self.image_size, self.image_size

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompts,
        noise: Tensor,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        pipeline: Any = None,
        **given: Any,
    ) -> Tensor:
        """Generate images from the initial latents `noise`, with an unmodified diffusers pipeline.

        Args:
            prompts: B prompts.
            noise: initial latents, `[B, c, h, w]`, from a standard normal distribution. With a deterministic scheduler,
                they are the only source of randomness.
            num_inference_steps: number of sampling steps.
            guidance_scale: scale w of classifier-free guidance; 1 disables guidance.
            generator: random generator on the CPU, or a list with one generator for each image; used by stochastic
                schedulers.
            pipeline: pipeline to run instead of the model's pipeline; it has the same parts, and possibly more, such as
                a ControlNet. None runs the model's pipeline.
            given: additional arguments of the pipeline.

        Returns:
            Images in [0, 1], `[B, 3, H, W]`, or clips, `[B, T, 3, H, W]`.
        """
        count = len(noise)
        pipeline = pipeline or self.pipeline
        with stepping_with(pipeline.scheduler, generator):
            images = pipeline(
                **self.for_pipeline(prompts, self.negative_prompts(self.negative_prompt, count)),
                latents=self.pack(noise),
                **self.pipeline_size(noise),
                **self.for_guidance(guidance_scale),
                num_inference_steps=num_inference_steps,
                generator=generator,
                output_type="pt",
                **given,
            )[0]
        return images.clamp(0, 1).to(noise.dtype)

    def pipeline_size(self, noise: Tensor) -> dict[str, int]:
        """Return the size of the images to which latents decode as keyword arguments of the pipeline."""
        return {"height": noise.shape[-2] * self.latent_scale, "width": noise.shape[-1] * self.latent_scale}

    def pack(self, latent: Tensor) -> Tensor:
        """Rearrange latents z into the layout of the network's input."""
        return latent

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        """Return prompts and empty prompts as keyword arguments of the pipeline."""
        given: dict[str, Any] = {"prompt_embeds": prompts.embedding, "negative_prompt_embeds": empty.embedding}
        if prompts.pooled is not None:
            given |= {"pooled_prompt_embeds": prompts.pooled, "negative_pooled_prompt_embeds": empty.pooled}
        if prompts.mask is not None:
            given |= {"prompt_attention_mask": prompts.mask, "negative_prompt_attention_mask": empty.mask}
        return given

    def for_guidance(self, scale: float) -> dict[str, Any]:
        """Return the guidance scale as a keyword argument of the pipeline."""
        return {"guidance_scale": scale}
