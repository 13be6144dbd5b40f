"""Diffusion inpainting models that work in pixel space or in the latent space of Stable Diffusion.

A model predicts the noise e in z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) e. Its input is

    cat[z_t, m, y].

The mask m is 1 in the repainted part, and has the resolution of z. The input y is the encoding of the image in which
the repainted part is blanked. The methods of `Inpainter` take and return images in [0, 1], and convert them to the
range [-1, 1] of the networks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.backbones import adapt, frozen
from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline


class Inpainter(nn.Module, ABC):
    """Interface of inpainting models for attacks, training and editing.

    The attribute `scheduler` must be a diffusers scheduler.
    """

    scheduler: Any

    def extra_repr(self) -> str:
        settings = {key: value for key, value in self.scheduler.config.items() if not key.startswith("_")}
        return f"{type(self.scheduler).__name__} {settings}"

    @abstractmethod
    def noise_shape(self, image: Tensor) -> torch.Size:
        """Compute the shape of z for images `[B, C, H, W]`."""

    @abstractmethod
    def encode(self, image: Tensor, draw: Tensor) -> Tensor:
        """Encode images `[B, C, H, W]` in [0, 1] as z_0.

        Args:
            image: images; z_0 is differentiable with respect to them.
            draw: standard normal noise in the shape of z, with which a stochastic encoder samples its latent.
        """

    @abstractmethod
    def predicted_noise(self, noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise e, which has the shape of z.

        Args:
            noisy: z_t.
            repaint: mask m, `[B, 1, h, w]`, at the resolution of z.
            blanked: encoding y of the blanked images.
            timestep: timesteps t, int64, `[B]`, or a single timestep for all images.
        """

    @abstractmethod
    def edit(self, image: Tensor, keep: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        """Repaint the parts of images outside the kept region.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            keep: mask of the kept region, `[B, 1, H, W]`: 1 where the image is kept.
            prompts: B texts; a model without a text encoder ignores them.
            noise: standard normal noise of the shape of z.

        Returns:
            `[B, C, H, W]` in [0, 1].
        """

    def repaint(self, keep: Tensor, shape: torch.Size) -> Tensor:
        """Compute the mask m of the repainted part from the mask `keep` of the kept region, `[B, 1, H, W]`.

        m is 1 in the repainted part, and has the resolution of z. The mask is resized by nearest-neighbour
        interpolation.
        """
        return F.interpolate(1 - keep, size=shape[-2:], mode="nearest")

    def noise_given(self, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise e from images and from z_t, which is passed as `noise`.

        If t is the editor's first timestep and z_t is pure noise, the result equals the prediction in the editor's
        first step.

        Args:
            image: images `[B, C, H, W]` in [0, 1]; the result is differentiable with respect to them.
            keep: mask of the kept region, `[B, 1, H, W]`: 1 where the image is kept.
            noise: z_t.
            draw: standard normal noise in the shape of z, with which a stochastic encoder samples its latent.
            timestep: timestep t.
        """
        blanked = self.encode(self.blank(image, keep), draw)
        return self.predicted_noise(noise, self.repaint(keep, noise.shape), blanked, timestep)

    def blank(self, image: Tensor, keep: Tensor) -> Tensor:
        """Fill the repainted part with grey.

        Grey is 0.5 in the range [0, 1] of the images, and thus 0 in the range [-1, 1] of the networks.
        """
        return image * keep + 0.5 * (1 - keep)

    def first_timestep(self, num_steps: int) -> int:
        """Return the first timestep of an edit with `num_steps` denoising steps."""
        self.scheduler.set_timesteps(num_steps)
        return int(self.scheduler.timesteps[0])

    def denoising_error(self, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, timestep: Tensor) -> Tensor:
        """Compute the training loss of the model for each image, `[B]`.

        The loss is the mean squared difference between the noise e and the predicted noise.
        """
        clean = self.encode(image, draw)
        noisy = self.scheduler.add_noise(clean, noise, timestep)
        blanked = self.encode(self.blank(image, keep), draw)
        predicted = self.predicted_noise(noisy, self.repaint(keep, noise.shape), blanked, timestep)
        return (predicted - noise).square().flatten(1).mean(dim=1)


class PixelInpainter(Inpainter):
    """Inpainting model in pixel space; images are sampled by deterministic DDIM steps.

    The noise schedule is that of Stable Diffusion, in which sqrt(beta) is linear. If an edit has four
    denoising steps, abar = .056 at the first timestep.

    Args:
        network: `UNet2DModel` of diffusers with 2 C + 1 input channels (z_t, m, y) and C output channels.
        num_inference_steps: number of denoising steps of an edit.
    """

    def __init__(self, network: nn.Module, num_inference_steps: int = 12) -> None:
        super().__init__()
        from diffusers import DDIMScheduler

        within(1, 1000, num_inference_steps=num_inference_steps)
        self.network = network
        self.num_inference_steps = num_inference_steps
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=True,
            steps_offset=1,
            set_alpha_to_one=False,
        )

    def noise_shape(self, image: Tensor) -> torch.Size:
        return image.shape

    def encode(self, image: Tensor, draw: Tensor) -> Tensor:
        return to_signed(image)

    def predicted_noise(self, noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        C, config = noisy.shape[1], getattr(self.network, "config", None)
        if config is not None and (config.in_channels, config.out_channels) != (2 * C + 1, C):
            raise ValueError(
                f"images of {C} channels need a network with in_channels {2 * C + 1} (noisy image, mask, blanked "
                f"image) and out_channels {C}, but this one has {config.in_channels} and {config.out_channels}"
            )
        return self.network(torch.cat([noisy, repaint, blanked], dim=1), timestep).sample

    @torch.no_grad()
    def edit(self, image: Tensor, keep: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        self.scheduler.set_timesteps(self.num_inference_steps)
        sample = noise
        for timestep in self.scheduler.timesteps.to(image.device):
            predicted = self.noise_given(image, keep, sample, noise, timestep)
            sample = self.scheduler.step(predicted, timestep, sample).prev_sample
        painted = to_unit(sample).clamp(0, 1)
        return image * keep + painted * (1 - keep)


class StableDiffusionInpainter(Inpainter):
    """The frozen networks of a diffusers `StableDiffusionInpaintPipeline`.

    Attacks use an empty prompt. Edits run the pipeline without its safety checker, because the checker can replace
    images by black images, which would bias comparisons.

    Args:
        pipeline: local folder written by `save_pretrained`, or the name of a model on the Hugging Face Hub
            (`stable-diffusion-v1-5/stable-diffusion-inpainting`).
        num_inference_steps: number of denoising steps of an edit.
        guidance_scale: scale of the classifier-free guidance in an edit.
        gradient_checkpointing: whether to recompute the activations of the U-Net and the encoder in the backward pass.
    """

    def __init__(
        self,
        pipeline: str,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from diffusers import PNDMScheduler

        parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        self.pipeline = diffusers_pipeline(pipeline, parts, pipeline_class="StableDiffusionInpaintPipeline")
        self.pipeline.scheduler = PNDMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)
        channels = self.pipeline.unet.config.in_channels
        if channels != 9:
            raise ValueError(
                f"pipeline: the U-Net of {pipeline} has {channels} input channels, but an inpainting model has 9"
            )
        fixed = partial(adapt, tuning="frozen", gradient_checkpointing=gradient_checkpointing)
        self.network = fixed(self.pipeline.unet)
        self.vae = fixed(self.pipeline.vae)
        self.text_encoder = frozen(self.pipeline.text_encoder)
        self.tokenizer = self.pipeline.tokenizer
        self.scheduler = self.pipeline.scheduler
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self._empty_prompt: Tensor | None = None

    def train(self, mode: bool = True) -> "StableDiffusionInpainter":
        """Keep the networks in evaluation mode."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scaling_factor={self.vae.config.scaling_factor}"  # type: ignore[union-attr]

    def noise_shape(self, image: Tensor) -> torch.Size:
        config: Any = self.vae.config
        scale = 2 ** (len(config.block_out_channels) - 1)
        return torch.Size((len(image), config.latent_channels, image.shape[2] // scale, image.shape[3] // scale))

    def encode(self, image: Tensor, draw: Tensor) -> Tensor:
        posterior = self.vae.encode(to_signed(image)).latent_dist  # type: ignore[operator]
        return self.vae.config.scaling_factor * (posterior.mean + posterior.std * draw)  # type: ignore[union-attr]

    def predicted_noise(self, noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        prompt = self.empty_prompt(noisy.device).expand(len(noisy), -1, -1)
        channels = torch.cat([noisy, repaint, blanked], dim=1)
        return self.network(channels, timestep, encoder_hidden_states=prompt).sample

    def empty_prompt(self, device: torch.device) -> Tensor:
        """Compute the embedding of the empty prompt, `[1, tokens, D]`.

        The result is cached.
        """
        if self._empty_prompt is None:
            tokens = self.tokenizer(
                "", padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
            )
            with torch.no_grad():
                self._empty_prompt = self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]
        return self._empty_prompt.to(device)

    @torch.no_grad()
    def edit(self, image: Tensor, keep: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        return self.pipeline(
            prompt=list(prompts),
            image=image,  # the pipeline assumes the range [0, 1] if there are no negative pixels
            mask_image=1 - keep,
            height=image.shape[2],
            width=image.shape[3],
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            latents=noise,
            # One generator per image for sampling the encoding, so that samples do not depend on the position in the
            # batch.
            generator=[torch.Generator().manual_seed(0) for _ in prompts],
            output_type="pt",
        ).images.clamp(0, 1)
