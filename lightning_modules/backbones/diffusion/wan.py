"""Wan 2.1 text-to-video from diffusers: flow matching on clips. The text encoder is UMT5.

    z = (E(2 x - 1) - m) / d, with the mean m and the standard deviation d of each latent channel

The autoencoder E encodes the first frame of a clip x alone, and then four frames at a time, so that a clip of 4 k + 1
frames has k + 1 latent frames. See `flow_transformer.py` for z_t and for the predicted quantity.

Source: Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models, 2025, arXiv 2503.20314.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.backbones.diffusion.autoencoder_latents import NormalizedChannels
from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage

PIPELINE_MULTIPLE = 16
"""Number by which the pipeline requires the height and width of frames to be divisible, whatever the autoencoder."""


class Wan(NormalizedChannels, FlowTransformer):
    """Wan 2.1 for text-to-video generation, with its transformer, autoencoder and UMT5 encoder."""

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "WanTransformer3DModel",
        "_class_name": "WanPipeline",
        "vae": "AutoencoderKLWan",
    }
    default_lora_targets = TextToImage.default_lora_targets
    prompt_fields = ("embedding",)
    latent_axes = 3
    frame_multiple = 4

    def prepare_parts(self) -> None:
        super().prepare_parts()
        if getattr(self.pipeline, "transformer_2", None) is not None or self.pipeline.config.get("expand_timesteps"):
            raise ValueError("pipeline: Wan 2.2 is not supported; use a pipeline of Wan 2.1, which has one transformer")

    def _default(self, argument: str) -> Any:
        return inspect.signature(type(self.pipeline).__call__).parameters[argument].default

    @property
    def latent_scale(self) -> int:
        """Height and width, in pixels of a frame, of the area that corresponds to one pixel of z."""
        return self.pipeline.vae_scale_factor_spatial

    @property
    def patch_size(self) -> int:
        """Height and width, in latent pixels, of the patch that forms one token; it has one latent frame."""
        return self.network.config.patch_size[1]

    @property
    def size_multiple(self) -> int:
        """Number of pixels by which the height and width of frames must be divisible."""
        return math.lcm(PIPELINE_MULTIPLE, super().size_multiple)

    @property
    def image_size(self) -> int:
        """Height, in pixels, of the clips that the pipeline generates by default."""
        return self._default("height")

    @property
    def default_size(self) -> tuple[int, ...]:
        """Number of frames, height and width of the clips that the pipeline generates by default."""
        return tuple(self._default(argument) for argument in ("num_frames", "height", "width"))

    def latent_shape(self, n: int, *size: int) -> tuple[int, ...]:  # type: ignore[override]
        """Return the shape of z for n clips of a size: number of frames, height and width; see `default_size`."""
        frames, height, width = size or self.default_size
        count = 1 + (frames - 1) // self.frame_multiple
        return n, self.latent_channels, count, height // self.latent_scale, width // self.latent_scale

    def pipeline_size(self, noise: Tensor) -> dict[str, int]:
        return super().pipeline_size(noise) | {"num_frames": 1 + self.frame_multiple * (noise.shape[2] - 1)}

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        most = self._default("max_sequence_length")
        given = {"do_classifier_free_guidance": False, "max_sequence_length": most}
        return Prompts(self.pipeline.encode_prompt(texts, device=device, **given)[0])

    def moments(self, image: Tensor) -> Tensor:
        """Encode clips `[B, T, 3, H, W]` in [0, 1]; return mean and deviation of the latents, `[B, 2, c, t, h, w]`."""
        posterior = self.vae.encode(to_signed(image).to(self.vae.dtype).transpose(1, 2)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to clips in [0, 1], `[B, T, 3, H, W]`; the autoencoder itself clips them to this range."""
        scaled = latent / self.scaling_factor + self.shift_factor
        return to_unit(self.vae.decode(scaled.to(self.vae.dtype)).sample).transpose(1, 2).to(latent.dtype)

    def network_inputs(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> dict[str, Any]:
        return {
            "hidden_states": latent,
            "timestep": timestep.expand(latent.shape[0]),
            "encoder_hidden_states": prompts.embedding.to(latent.dtype),
        }
