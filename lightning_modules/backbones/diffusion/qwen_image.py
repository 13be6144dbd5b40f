"""Qwen-Image from diffusers: flow matching on packed latents. The text encoder is a vision-language model.

    z = (E(2 x - 1) - m) / d, with the mean m and the standard deviation d of each latent channel

The autoencoder is designed for videos; an image is encoded as a video of one frame. The token embeddings of a prompt
are padded to the pipeline's maximum length, and the padding is masked. See `flow_transformer.py` for z_t and for the
predicted quantity.

Source: Wu et al., Qwen-Image Technical Report, 2025, arXiv 2508.02324.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.backbones.diffusion.autoencoder_latents import NormalizedChannels
from lightning_modules.backbones.diffusion.flow_transformer import JOINT_ATTENTION, PackedLatents
from lightning_modules.backbones.diffusion.text_to_image import Prompts


class QwenImage(NormalizedChannels, PackedLatents):
    """Qwen-Image, with its transformer, autoencoder and vision-language model."""

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "QwenImageTransformer2DModel",
        "_class_name": "QwenImagePipeline",
        "vae": "AutoencoderKLQwenImage",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION
    prompt_fields = ("embedding", "mask")

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        most = inspect.signature(type(self.pipeline).__call__).parameters["max_sequence_length"].default
        embedding, mask = self.pipeline.encode_prompt(texts, device, max_sequence_length=most)
        if mask is None:  # no text has padding
            mask = torch.ones(embedding.shape[:2], dtype=torch.int64, device=device)
        padding = most - embedding.shape[1]
        return Prompts(F.pad(embedding, (0, 0, 0, padding)), mask=F.pad(mask, (0, padding)))

    def moments(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1] with E; return the mean and deviation of its distribution, `[B, 2, c, h, w]`."""
        posterior = self.vae.encode(to_signed(image).to(self.vae.dtype).unsqueeze(2)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).squeeze(3).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to images in [0, 1], `[B, 3, H, W]`; the autoencoder itself clips them to this range."""
        scaled = latent / self.scaling_factor + self.shift_factor
        frame = self.vae.decode(scaled.to(self.vae.dtype).unsqueeze(2)).sample[:, :, 0]
        return to_unit(frame).to(latent.dtype)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        assert prompts.mask is not None
        count, _, height, width = latent.shape
        output = self.network(
            hidden_states=self.pack(latent),
            timestep=(timestep / self.scheduler.config.num_train_timesteps).expand(count),
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_hidden_states_mask=prompts.mask.bool(),
            img_shapes=[[(1, height // 2, width // 2)]],  # all images of a batch have the same size
        ).sample
        return self.unpack(output, height, width).squeeze(2)

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        return {
            "prompt_embeds": prompts.embedding,
            "prompt_embeds_mask": prompts.mask,
            "negative_prompt_embeds": empty.embedding,
            "negative_prompt_embeds_mask": empty.mask,
        }

    def for_guidance(self, scale: float) -> dict[str, Any]:
        """Return the guidance scale as a keyword argument of the pipeline."""
        return {"true_cfg_scale": scale}
