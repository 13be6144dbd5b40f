"""Sana from diffusers: a flow-matching transformer with linear attention. The text encoder is a language model.

The autoencoder is deterministic, and its latents have fewer pixels than those of Stable Diffusion. The pipeline's
default instruction is prepended to each text. Padding is masked. See `flow_transformer.py` for z_t and for the
predicted quantity.

Source: Xie et al., SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers, ICLR 2025,
arXiv 2410.10629.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.pixel_ranges import to_signed
from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage

PIPELINE_MULTIPLE = 32
"""Number by which the pipeline requires image height and width to be divisible, whatever the autoencoder."""


class Sana(FlowTransformer):
    """Sana or Sana 1.5, with its transformer, deep-compression autoencoder and language model."""

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "SanaTransformer2DModel",
        "_class_name": "SanaPipeline",
        "vae": "AutoencoderDC",
    }
    default_lora_targets = TextToImage.default_lora_targets
    prompt_fields = ("embedding", "mask")

    @property
    def size_multiple(self) -> int:
        """Number of pixels by which the height and width of an image must be divisible."""
        return math.lcm(PIPELINE_MULTIPLE, super().size_multiple)

    def embed(self, texts: list[str], device: torch.device, instructed: bool = True) -> Prompts:
        instruction = inspect.signature(type(self.pipeline).__call__).parameters["complex_human_instruction"].default
        embedding, mask, _, _ = self.pipeline.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            device=device,
            complex_human_instruction=instruction if instructed else None,
        )
        return Prompts(embedding, mask=mask)

    def embedded_negative(self, texts: list[str], device: torch.device) -> Prompts:
        """Embed B negative prompts, to which the pipeline's instruction is not prepended."""
        return self.embed(texts, device, instructed=False)

    def moments(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1] with E; return the latents, and 0 as their standard deviation, `[B, 2, c, h, w]`."""
        latent = self.vae.encode(to_signed(image).to(self.vae.dtype)).latent.to(image.dtype)
        return torch.stack([latent, torch.zeros_like(latent)], dim=1)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        return self.network(
            latent,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_attention_mask=prompts.mask,
            timestep=self.network.config.timestep_scale * timestep.expand(latent.shape[0]),
        ).sample[:, : latent.shape[1]]

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        return super().for_pipeline(prompts, empty) | {"negative_prompt": None, "use_resolution_binning": False}
