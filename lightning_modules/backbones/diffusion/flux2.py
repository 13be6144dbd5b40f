"""FLUX.2 from diffusers, a flow-matching transformer whose text encoder is a language model.

    z = (P(E(2 x - 1)) - m) / d

E is the encoder of the autoencoder, and P rearranges 2 x 2 latent pixels into channels. The mean m and the standard
deviation d are the running statistics of a batch normalisation in the autoencoder. The transformer receives the
positions of image and text tokens. FLUX.2-dev has distilled guidance: its transformer also receives the guidance scale.
The transformer of FLUX.2-klein receives no guidance scale. See `flow_transformer.py` for z_t and for the predicted
quantity.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.pixel_ranges import to_unit
from lightning_modules.backbones.adaptation import Adapters, Tuning
from lightning_modules.backbones.diffusion.autoencoder_latents import NormalizedChannels
from lightning_modules.backbones.diffusion.flow_transformer import JOINT_ATTENTION, FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts, Weights


class Flux2(NormalizedChannels, FlowTransformer):
    """FLUX.2-dev or FLUX.2-klein, with its transformer, autoencoder and language model.

    Args:
        pipeline: local folder written by `save_pretrained`, name of a pipeline on the Hugging Face Hub
            (`black-forest-labs/FLUX.2-klein-base-4B`), or a single `.safetensors` file, which requires
            `weights.config`.
        weights: files, precision and quantisation of the weights.
        tuning: `full` trains all parameters of the transformer, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        adapters: settings of the adapters.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of storing them.
        offload_text_encoders: keep the text encoder on the CPU, and embed prompts there.
        training_guidance: guidance scale that the transformer receives in training; ignored if the transformer does not
            receive a guidance scale. Sampling has a separate guidance scale.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "Flux2Transformer2DModel",
        "_class_name": ("Flux2Pipeline", "Flux2KleinPipeline"),
        "vae": "AutoencoderKLFlux2",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets: ClassVar[Sequence[str]] = (*JOINT_ATTENTION, "attn.to_qkv_mlp_proj", "attn.to_out")
    prompt_fields = ("embedding",)

    def __init__(
        self,
        pipeline: str,
        weights: Weights = Weights(),
        tuning: Tuning = "frozen",
        adapters: Adapters = Adapters(),
        gradient_checkpointing: bool = False,
        offload_text_encoders: bool = False,
        training_guidance: float = 3.5,
    ) -> None:
        super().__init__(pipeline, weights, tuning, adapters, gradient_checkpointing, offload_text_encoders)
        self.training_guidance = training_guidance
        self.takes_negative_prompts = "negative_prompt_embeds" in self._arguments and not self.pipeline.config.get(
            "is_distilled"
        )

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        return norm.running_mean, (norm.running_var + norm.eps).sqrt()

    @classmethod
    def size_multiple_before_loading(cls, pipeline: str, **settings: Any) -> int | None:
        """Return a number by which image height and width must be divisible; None if no config file defines it."""
        multiple = super().size_multiple_before_loading(pipeline, **settings)
        return multiple and 2 * multiple

    @property
    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(type(self.pipeline).__call__).parameters

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents z."""
        return 4 * self.vae.config.latent_channels

    @property
    def latent_scale(self) -> int:
        """Height and width, in image pixels, of the image area that corresponds to one pixel of z."""
        return 2 * self.pipeline.vae_scale_factor

    @property
    def image_size(self) -> int:
        """Height and width of the images that the pipeline generates by default."""
        return self.pipeline.default_sample_size * self.pipeline.vae_scale_factor

    def time_shift(self, positions: int, num_steps: int | None = None) -> float:
        """Return the time shift that the pipeline's sampler uses; see `FlowTransformer.time_shift`."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        if not self.scheduler.config.use_dynamic_shifting:
            return super().time_shift(positions)
        mu = compute_empirical_mu(positions, num_steps or self._arguments["num_inference_steps"].default)
        return mu if self.scheduler.config.time_shift_type == "linear" else math.exp(mu)

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        return Prompts(self.pipeline.encode_prompt(texts, device=device)[0])

    def moments(self, image: Tensor) -> Tensor:
        """Encode images x in [0, 1]; return the mean and standard deviation of P(E(2 x - 1)), `[B, 2, c, h, w]`."""
        patches = self.pipeline._patchify_latents(super().moments(image).flatten(0, 1))
        return patches.unflatten(0, (-1, 2))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to images, `[B, 3, H, W]`, whose values may slightly exceed [0, 1]."""
        pixels = self.pipeline._unpatchify_latents(latent / self.scaling_factor + self.shift_factor)
        return to_unit(self.vae.decode(pixels.to(self.vae.dtype)).sample).to(latent.dtype)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        count, _, height, width = latent.shape
        guided = self.network.config.guidance_embeds
        output = self.network(
            hidden_states=latent.flatten(2).transpose(1, 2),
            timestep=(timestep / self.scheduler.config.num_train_timesteps).expand(count),
            guidance=torch.full([count], self.training_guidance, device=latent.device) if guided else None,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            txt_ids=token_positions(1, 1, prompts.embedding.shape[1], latent.device),
            img_ids=token_positions(height, width, 1, latent.device),
        ).sample
        return output.transpose(1, 2).unflatten(2, (height, width))

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        """Convert prompts to keyword arguments of the pipeline, including empty prompts if it accepts them."""
        negative = {"negative_prompt_embeds": empty.embedding} if self.takes_negative_prompts else {}
        return {"prompt_embeds": prompts.embedding, **negative}


def token_positions(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """List the position (0, row, column, index in the text) of each token, as the pipeline does."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in (1, height, width, length)))
