"""Lumina-Image 2.0 of diffusers, a single-stream flow-matching transformer with a language model as text encoder.

The network receives 1 - t, with noise at 0 and data at 1, and predicts z - e. Here, the sign is reversed, so that the
prediction is e - z, as for the other families (see `flow_transformer.py`). Each text follows a system prompt, which is
the default of the pipeline. The network removes the padding of a text. The host must know the lengths of the texts, so
each step waits for the device.

Source: Qin et al., Lumina-Image 2.0: A Unified and Efficient Image Generative Framework, 2025, arXiv 2503.21758.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage


class Lumina2(FlowTransformer):
    """Lumina-Image 2.0 with transformer, autoencoder and language model."""

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "Lumina2Transformer2DModel",
        "_class_name": "Lumina2Pipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = TextToImage.default_lora_targets
    prompt_fields = ("embedding", "mask")

    def embedded(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, mask, *_ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return Prompts(embedding, mask=mask)

    def embedded_empty(self, n: int, device: torch.device) -> Prompts:
        """Embed the empty prompt n times, without the system prompt, as the pipeline does for guidance."""
        *_, embedding, mask = self.pipeline.encode_prompt([""] * n, device=device)
        return Prompts(embedding, mask=mask)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict e - z.

        Args:
            latent: z_t, `[B, c, h, w]`.
            timestep: T t, `[B]`, or one value for all images.
            prompts: B prompts.
        """
        assert prompts.mask is not None
        return -self.network(
            hidden_states=latent,
            timestep=1 - timestep.expand(len(latent)) / self.scheduler.config.num_train_timesteps,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_attention_mask=prompts.mask.bool(),
        ).sample
