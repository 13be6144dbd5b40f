"""Latent flow-matching transformers of diffusers, and Stable Diffusion 3.

    z_t = (1 - t) z + t e,   z = s (E(2 x - 1) - m),   0 <= t <= 1

The transformer predicts dz_t/dt = e - z from z_t, T t and a prompt's embeddings, with T = 1000.

Source: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024,
arXiv 2403.03206.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Precision, Tuning
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage

JOINT_ATTENTION = tuple(
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)
"""Projections of image and text in joint attention, which diffusers' training scripts adapt."""


class FlowTransformer(TextToImage):
    """A latent flow-matching transformer with its frozen autoencoder and text encoders; base class of the families.

    Args:
        pipeline: a local folder as `save_pretrained` writes it, a pipeline's name on the Hugging Face Hub
            (`stabilityai/stable-diffusion-3-medium-diffusers`), or one `.safetensors` file, with `config`.
        config: for a single file only: the folder or name of a pipeline of the same architecture.
        variant: variant of the weight files, such as fp16; default: files without a variant.
        local_files_only: look for a pipeline's name only in the Hugging Face cache.
        tuning: full trains every parameter of the transformer, lora only adapters in its attention, frozen none.
        lora_rank: rank of the adapters.
        lora_targets: last parts of the names of the layers that get adapters; default: the attention's projections.
        dtype: precision of transformer and text encoders; the autoencoder, inputs and outputs are float32.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of keeping them.
        offload_text_encoders: keep the text encoders on the CPU, where they embed prompts.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if a part is missing or of another family.
        ImportError: if transformers is not installed, or peft with lora.
    """

    prompt_fields = ("embedding", "pooled")

    def __init__(
        self,
        pipeline: str,
        config: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        tuning: Tuning = "frozen",
        lora_rank: int = 4,
        lora_targets: Sequence[str] | None = None,
        dtype: Precision | None = None,
        gradient_checkpointing: bool = False,
        offload_text_encoders: bool = False,
    ) -> None:
        super().__init__(
            pipeline, config, variant, local_files_only, tuning, lora_rank, lora_targets, dtype,
            gradient_checkpointing, ("flow",), None, offload_text_encoders,
        )  # fmt: skip

    @property
    def patch_size(self) -> int:
        """Height and width of a position of the transformer, in latent pixels."""
        return self.network.config.patch_size

    @property
    def size_multiple(self) -> int:
        """Number of pixels by which height and width of an image must be divisible: those of a position."""
        return self.pipeline.vae_scale_factor * self.patch_size


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 or 3.5: its transformer, autoencoder and two or three text encoders.

    A pipeline without its third text encoder, T5, embeds zeros in place of that encoder's tokens, as in diffusers.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "SD3Transformer2DModel",
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION

    def embedded(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, texts, device=device, do_classifier_free_guidance=False
        )
        return Prompts(embedding, pooled)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict e - z.

        Args:
            latent: z_t, `[B, c, h, w]`.
            timestep: T t, `[B]` or one for all.
            prompts: B prompts.
        """
        assert prompts.pooled is not None
        return self.network(
            latent,
            timestep=timestep.expand(len(latent)),
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            pooled_projections=prompts.pooled.to(latent.dtype),
        ).sample
