"""Latent flow-matching transformers from diffusers, such as Stable Diffusion 3.

    z_t = (1 - t) z + t e,   z = s (E(2 x - 1) - m),   0 <= t <= 1

E is the encoder of an autoencoder with scaling factor s and shift factor m, x is an image in [0, 1], and e is standard
normal noise. The transformer predicts dz_t/dt = e - z from z_t, the scaled time T t (T = 1000) and the embeddings of a
prompt.

Source: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024,
arXiv 2403.03206.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters, Tuning
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage, Weights
from lightning_modules.sde.flow_shift import scheduler_shift

JOINT_ATTENTION = tuple(
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)
"""Names of the image and text projections in joint attention.

The LoRA script of diffusers for SD 3 adapts these layers; that for FLUX.1 also adapts `ff.net` and `ff_context.net`.
"""


class FlowTransformer(TextToImage):
    """Base class of latent flow-matching transformers with a frozen autoencoder and frozen text encoders.

    Args:
        pipeline: local folder written by `save_pretrained`, name of a pipeline on the Hugging Face Hub
            (`stabilityai/stable-diffusion-3-medium-diffusers`), or a single `.safetensors` file, which requires
            `weights.config`.
        weights: files, precision and quantisation of the weights.
        tuning: `full` trains all parameters of the transformer, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        adapters: settings of the adapters.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of storing them.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.
    """

    prompt_fields: tuple[str, ...] = ("embedding", "pooled")

    def __init__(
        self,
        pipeline: str,
        weights: Weights = Weights(),
        tuning: Tuning = "frozen",
        adapters: Adapters = Adapters(),
        gradient_checkpointing: bool = False,
        offload_text_encoders: bool = False,
    ) -> None:
        super().__init__(pipeline, weights, tuning, adapters, gradient_checkpointing, offload_text_encoders, ("flow",))

    @property
    def patch_size(self) -> int:
        """Height and width, in latent pixels, of the patch that forms one image token."""
        return self.network.config.patch_size

    @property
    def size_multiple(self) -> int:
        """Side length, in image pixels, of an image token's patch, which must divide the sides of images."""
        return self.latent_scale * self.patch_size

    def time_shift(self, positions: int, num_steps: int | None = None) -> float:
        """Return the time shift that the pipeline's sampler uses.

        Args:
            positions: number of image tokens in the transformer.
            num_steps: number of sampling steps; None means the pipeline's default. Only the shift of FLUX.2 depends on
                this number.
        """
        return scheduler_shift(self.scheduler.config, positions)


class PackedLatents(FlowTransformer):
    """Base class of FLUX.1, Chroma and Qwen-Image, flow-matching transformers whose tokens are 2 x 2 latent pixels."""

    packing = 4

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, of the images that the pipeline generates by default."""
        return self.pipeline.default_sample_size * self.pipeline.vae_scale_factor

    @property
    def patch_size(self) -> int:
        """Height and width, in latent pixels, of the patch that is packed into one token."""
        return 2

    def pack(self, latent: Tensor) -> Tensor:
        """Pack latents z, `[B, c, h, w]`, into tokens; the result is `[B, h w / 4, 4 c]`."""
        return self.pipeline._pack_latents(latent.contiguous(), *latent.shape)

    def unpack(self, positions: Tensor, height: int, width: int) -> Tensor:
        """Unpack tokens into latents z of a given height and width, as the pipeline does."""
        scale = self.pipeline.vae_scale_factor
        return self.pipeline._unpack_latents(positions, height * scale, width * scale, scale)


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 or 3.5, with its transformer, autoencoder and two or three text encoders.

    If the pipeline lacks the third text encoder, T5, zeros replace the token embeddings of T5, as in diffusers.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "SD3Transformer2DModel",
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, texts, device=device, do_classifier_free_guidance=False
        )
        return Prompts(embedding, pooled)

    def network_inputs(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> dict[str, Any]:
        assert prompts.pooled is not None
        return {
            "hidden_states": latent,
            "timestep": timestep.expand(latent.shape[0]),
            "encoder_hidden_states": prompts.embedding.to(latent.dtype),
            "pooled_projections": prompts.pooled.to(latent.dtype),
        }
